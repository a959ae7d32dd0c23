"""Read the rows of a public data set, from the hub or from downloaded files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.datasets.public.columns import Adapter
from agentfly.datasets.tables import Row, find_tables, read_table
from agentfly.errors import ConfigError, DatasetError, first_line, require, unknown_name
from agentfly.model_source import hub_answers
from agentfly.settings import Settings

if TYPE_CHECKING:
    import datasets


class HubOptions(Settings):
    """Options of data sets by name.

    Attributes:
        revision: branch, tag or commit on the hub; by default the newest.
        streaming: read row by row instead of fetching the files first; by default as the data set prefers.
        config: one named part (PIE-Bench++: "3_delete_object_80"); by default all parts.
        language: of the rows (GEdit-Bench: "en" or "cn"); by default all languages.
        multi_turn: "chained" makes each turn a task on the image before it; "session" makes all turns on an image
            one task, from the first image to the last target (MagicBrush).
    """

    revision: str | None = None
    streaming: bool | None = None
    config: str | None = None
    language: str | None = None
    multi_turn: str = "chained"


def read_rows(name: str, adapter: Adapter, split: str, root: Path | None, options: HubOptions) -> Iterator[Row]:
    """Yield the raw rows of a split, images undecoded. In a data set with parts, a column `config` is added.

    Args:
        name: of the data set.
        adapter: of the data set.
        split: one of `adapter.splits`.
        root: folder with the downloaded files; None reads from the hub.
        options: part, language and revision.

    Raises:
        ConfigError: the data set has no such split, part or option.
        DatasetError: the files or the hub cannot be read; the message names `root=`.
    """
    if split not in adapter.splits:
        raise ConfigError(unknown_name(f"split of {name}", split, adapter.splits))
    parts = _wanted_parts(name, adapter, root, options.config)
    return _rows(name, adapter, split, root, options, parts)


def _rows(
    name: str, adapter: Adapter, split: str, root: Path | None, options: HubOptions, parts: Sequence[str | None]
) -> Iterator[Row]:
    for part in parts:
        if root is None:
            rows = _from_hub(name, adapter, part, split, options)
        else:
            files = find_tables(root / part if part else root, split, adapter.splits)
            rows = itertools.chain.from_iterable(map(read_table, files))
        for row in rows:
            if adapter.language and options.language not in (None, row.get(adapter.language)):
                continue
            yield {**row, "config": part} if part else row


def _wanted_parts(name: str, adapter: Adapter, root: Path | None, wanted: str | None) -> Sequence[str | None]:
    if wanted is not None:
        if not adapter.parts:
            raise ConfigError(f"{name} has no parts; leave config out")
        if wanted not in adapter.parts:
            raise ConfigError(unknown_name(f"part of {name}", wanted, adapter.parts))
        return (wanted,)
    if root is None or not adapter.parts:
        return adapter.parts or (None,)
    # A folder with some of the parts stands for those parts.
    there = [part for part in adapter.parts if (root / part).is_dir()]
    if not there:
        raise DatasetError(f"{root} holds none of the parts of {name}, folders named {', '.join(adapter.parts)}")
    return there


def _from_hub(name: str, adapter: Adapter, part: str | None, split: str, options: HubOptions) -> Iterator[Row]:
    require("datasets", f"data set {name!r} by name", "data")
    import datasets

    if not hub_answers():
        import huggingface_hub.constants

        # Read the cache only: the libraries would try each request again for a minute.
        datasets.config.HF_HUB_OFFLINE = True
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    streaming = adapter.streaming if options.streaming is None else options.streaming
    try:
        rows = datasets.load_dataset(adapter.repo, part, split=split, revision=options.revision, streaming=streaming)
        yield from _undecoded(rows)
    except Exception as fault:  # the hub's client passes on the errors of its HTTP library
        raise DatasetError(
            f"{name}: cannot read {adapter.repo} from the hub ({first_line(fault)}). Check the network and the name, "
            "or download its files and name their folder: root=FOLDER, on the command line --root FOLDER"
        ) from fault


def _undecoded(rows: datasets.Dataset | datasets.IterableDataset) -> Iterator[Row]:
    """Return the rows with images as their stored bytes, which `load_image` opens within its limits."""
    import datasets

    if isinstance(rows, datasets.IterableDataset):
        return iter(rows if rows.features is None else rows.decode(False))
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return iter(rows)
