"""Make tasks of the rows of public data sets, by the table of their columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial, reduce
from pathlib import Path

from PIL import Image, ImageChops

from agentfly.datasets.image_paths import ImageFolder
from agentfly.datasets.public.columns import ADAPTERS, Adapter
from agentfly.datasets.public.hub import HubOptions, read_rows
from agentfly.datasets.public.task_fields import numbered, stable_task_type
from agentfly.datasets.tables import Row
from agentfly.datasets.task import EditTask, TaskRow
from agentfly.errors import ConfigError, DatasetError, unknown_name

MULTI_TURN: tuple[str, ...] = ("chained", "session")


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
    image = next((row[column] for column in adapter.images if row.get(column) is not None), None)
    if image is None:
        raise DatasetError(f"column {' and '.join(adapter.images)} holds no image")
    target, mask = (row[column] if column else None for column in (adapter.target, adapter.mask))
    if mask is not None:
        # Runs are text, which would pass for a path.
        mask = adapter.read_mask(mask if isinstance(mask, str) else images.source(mask))
    return EditTask(
        id="-".join(str(row[column]) for column in adapter.id),
        instruction=str(row[adapter.instruction] or "").strip(),
        images=(images.source(image),),
        target=None if target is None else images.source(target),
        mask=mask,
        task_type=stable_task_type(own_type),
        metadata=metadata,
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
        raise DatasetError(f"lacks column {', '.join(missing)} of {adapter.repo}; it has {', '.join(row)}")


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
