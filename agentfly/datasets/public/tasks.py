"""Read public data sets from the hub or from downloaded files, and make tasks of their rows.

The table of their columns is in `columns`. Task types and instructions get one form, so that tables of different data
sets can be compared. A data set's own name of a task type is mapped to ours. A name that is not listed stays, in lower
case with `_`. The original name is in `metadata["original_task_type"]`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from types import MappingProxyType

from PIL import Image, ImageChops

from agentfly.datasets.image_paths import ImageFolder
from agentfly.datasets.public.columns import ADAPTERS, Adapter
from agentfly.datasets.tables import Row, column_names, find_tables, is_missing, read_table
from agentfly.datasets.task import EditTask, TaskRow
from agentfly.errors import ConfigError, DatasetError, first_line, require, unknown_name
from agentfly.model_source import hub_answers
from agentfly.settings import Settings

MULTI_TURN: tuple[str, ...] = ("chained", "session")
# Our name, and the names in GEdit-Bench, EMU-Edit, HumanEdit, OmniEdit, PIE-Bench++ and ImgEdit.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "add": ("add", "addition", "subject_add", "add_object"),
    "remove": ("remove", "removal", "subject_remove", "delete_object"),
    "replace": ("replace", "swap", "subject_replace", "object_swap", "change_object"),
    "background": ("background", "background_change", "background_swap", "change_background"),
    "style": ("style", "style_change", "change_style"),
    "colour": ("color", "color_alter", "change_attribute_color"),
    "material": ("material", "material_alter", "change_attribute_material"),
    "attribute": ("attribute", "attribute_modification", "adjust", "change_attribute_content"),
    "action": ("action", "motion_change", "change_attribute_pose"),
    "text": ("text", "text_change"),
    "tone": ("tone", "tone_transfer"),
    "environment": ("env", "environment"),
    "portrait": ("ps_human",),
    "count": ("counting",),
}
_TO_OURS: Mapping[str, str] = MappingProxyType({name: ours for ours, names in _NAMES.items() for name in names})


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


def public_rows(name: str, split: str | None, root: Path | None, options: HubOptions) -> Iterator[TaskRow]:
    """Yield the rows of a data set by name.

    Args:
        name: key of `ADAPTERS`.
        split: in the data set's own words; None takes its first one.
        root: folder with the downloaded files; None reads from the hub.
        options: part, language, turns and revision.

    Raises:
        ConfigError: an option does not fit the data set.
        DatasetError: the data set cannot be read.
    """
    adapter = ADAPTERS[name]
    if options.multi_turn not in MULTI_TURN:
        raise ConfigError(unknown_name("multi_turn", options.multi_turn, MULTI_TURN))
    if options.multi_turn == "session" and adapter.session is None:
        raise ConfigError(f"{name} has one turn an image; leave multi_turn out")
    if options.language is not None and adapter.language is None:
        raise ConfigError(f"{name} has one language; leave language out")
    rows = read_rows(name, adapter, split or adapter.splits[0], root, options)
    images = ImageFolder(root)
    if adapter.session is not None and options.multi_turn == "session":
        return _sessions(name, adapter, adapter.session, rows, images)
    return (TaskRow(f"{name} row {number}", partial(_task, adapter, row, images)) for number, row in enumerate(rows))


def _task(adapter: Adapter, raw: Row, images: ImageFolder) -> EditTask:
    _check_columns(adapter, raw)
    row = adapter.prepare(raw)
    own_type = str(row[adapter.task_type]) if adapter.task_type else ""
    metadata = {ours: row[column] for ours, column in adapter.metadata.items() if row.get(column) is not None}
    if own_type:
        metadata["original_task_type"] = own_type
    image = next((row[column] for column in adapter.images if not is_missing(row.get(column))), None)
    if image is None:
        raise DatasetError(f"column {' and '.join(adapter.images)} holds no image")
    target, mask = (row[column] if column else None for column in (adapter.target, adapter.mask))
    if isinstance(mask, str) or not is_missing(mask):
        # Runs are text, which would pass for a path.
        mask = adapter.read_mask(mask if isinstance(mask, str) else images.source(mask))
    else:
        mask = None
    return EditTask(
        id="-".join(str(row[column]) for column in adapter.id),
        instruction=str(row[adapter.instruction] or "").strip(),
        images=(images.source(image),),
        target=None if is_missing(target) else images.source(target),
        mask=mask,
        task_type=stable_task_type(own_type),
        metadata=metadata,
        references={
            name: images.source(row[column])
            for name, column in adapter.references.items()
            if not is_missing(row.get(column))
        },
    )


def _check_columns(adapter: Adapter, row: Row) -> None:
    needed = [
        *adapter.id,
        *(adapter.made_from or (adapter.instruction,)),
        adapter.target,
        adapter.mask,
        adapter.task_type,
    ]
    missing = [column for column in needed if column and column not in row]
    if not any(column in row for column in adapter.images):
        missing += adapter.images
    if missing:
        raise DatasetError(f"lacks column {', '.join(missing)} of {adapter.repo}; it has {column_names(row)}")


def _sessions(name: str, adapter: Adapter, column: str, rows: Iterator[Row], images: ImageFolder) -> Iterator[TaskRow]:
    """Yield one row for all turns of a session, which follow each other in the data."""
    start = 0
    for session, group in itertools.groupby(rows, key=lambda row: row.get(column)):
        turns = list(group)
        where = f"{name} rows {start} to {start + len(turns) - 1}"
        yield TaskRow(where, partial(_session_task, adapter, str(session), turns, images))
        start += len(turns)


def _session_task(adapter: Adapter, session: str, rows: Sequence[Row], images: ImageFolder) -> EditTask:
    tasks = sorted((_task(adapter, row, images) for row in rows), key=lambda task: int(task.metadata["turn"]))
    turns = [task.instruction for task in tasks]
    masks = [task.mask for task in tasks if isinstance(task.mask, Image.Image)]
    union = None
    if len(masks) == len(tasks) and len({mask.size for mask in masks}) == 1:
        # All that any turn may change; unknown where the images of the turns differ in size.
        union = reduce(ImageChops.lighter, masks)
    return EditTask(
        id=session,
        instruction=numbered(turns),
        images=tasks[0].images,
        target=tasks[-1].target,
        mask=union,
        task_type=tasks[0].task_type,
        metadata={"session": session, "turns": turns},
    )


def stable_task_type(name: str) -> str:
    """Return our name of a data set's task type, "edit" for an empty one.

    Numbers around a name, as in "3_delete_object_80" of PIE-Bench++, do not count.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    plain = re.sub(r"^\d+_|_\d+$", "", plain)
    plain = re.sub(r"_\d+$", "", plain)
    return _TO_OURS.get(plain, plain) or "edit"


def numbered(turns: list[str]) -> str:
    """Return the instructions of several turns as a numbered list, a single one as it is."""
    return turns[0] if len(turns) == 1 else "\n".join(f"{number}. {turn}" for number, turn in enumerate(turns, 1))


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
            if adapter.language and options.language is not None:
                if adapter.language not in row:
                    raise DatasetError(
                        f"{name}: lacks column {adapter.language} of {adapter.repo}, by which language="
                        f"{options.language} chooses; it has {column_names(row)}"
                    )
                if row[adapter.language] != options.language:
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
        # Images come as their stored bytes, which `load_image` opens within its limits.
        if isinstance(rows, datasets.IterableDataset):
            yield from rows if rows.features is None else rows.decode(False)
            return
        for column, feature in rows.features.items():
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
        yield from rows
    except Exception as fault:  # the hub's client passes on the errors of its HTTP library
        raise DatasetError(
            f"{name}: cannot read {adapter.repo} from the hub ({first_line(fault)}). Check the network and the name, "
            "or download its files and name their folder: root=FOLDER, on the command line --root FOLDER"
        ) from fault
