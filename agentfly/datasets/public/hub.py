"""Rows of a public data set, from the hub by name or from downloaded files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentfly.datasets.public.columns import Adapter, Row
from agentfly.datasets.tables import find_tables, read_table
from agentfly.errors import ConfigError, DatasetError, first_line, require, unknown_name
from agentfly.model_source import hub_answers
from agentfly.settings import Settings


class HubOptions(Settings):
    """Options of data sets by name.

    Attributes:
        revision: branch, tag or commit on the hub; the newest without it.
        streaming: read row by row instead of fetching the files first; the data set's own default without it.
        config: one named part (PIE-Bench++: "3_delete_object_80"); all parts without it.
        language: only rows in this language (GEdit-Bench: "en" or "cn").
        multi_turn: "chained" makes each turn a task on the image before it; "session" makes all turns on an image
            one task, from the first image to the last target (MagicBrush).
    """

    revision: str | None = None
    streaming: bool | None = None
    config: str | None = None
    language: str | None = None
    multi_turn: str = "chained"


def read_rows(name: str, adapter: Adapter, split: str, root: Path | None, options: HubOptions) -> Iterator[Row]:
    """The raw rows of a split, images undecoded; with parts, a column `config` is added.

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
    # Whoever downloaded some of the parts means those.
    there = [part for part in adapter.parts if (root / part).is_dir()]
    if not there:
        raise DatasetError(f"{root} holds none of the parts of {name}, folders named {', '.join(adapter.parts)}")
    return there


def _from_hub(name: str, adapter: Adapter, part: str | None, split: str, options: HubOptions) -> Iterator[Row]:
    require("datasets", f"data set {name!r} by name", "data")
    import datasets

    if not hub_answers():
        _take_from_cache()
    streaming = adapter.streaming if options.streaming is None else options.streaming
    try:
        rows = datasets.load_dataset(adapter.repo, part, split=split, revision=options.revision, streaming=streaming)
        yield from _undecoded(rows)
    except Exception as fault:  # the hub's client raises whatever its HTTP library does
        raise DatasetError(
            f"{name}: cannot read {adapter.repo} from the hub ({first_line(fault)}). Check the network and the name, "
            "or download its files and name their folder: root=FOLDER, on the command line --root FOLDER"
        ) from fault


def _take_from_cache() -> None:
    """Have the libraries of the hub ask it no more in this process: each question would be tried again for a minute."""
    import datasets
    import huggingface_hub.constants

    datasets.config.HF_HUB_OFFLINE = True
    huggingface_hub.constants.HF_HUB_OFFLINE = True


def _undecoded(rows: Any) -> Iterator[Row]:
    """Rows with their images as the bytes they are stored as: `load_image` opens them, with its limits."""
    import datasets

    if isinstance(rows, datasets.IterableDataset):
        return iter(rows if rows.features is None else rows.decode(False))
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return iter(rows)
