"""Tasks of the public data sets: the same code for all of them, with a table of their columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from agentfly.datasets.image_paths import ImageFolder
from agentfly.datasets.public.columns import ADAPTERS, Adapter, Row
from agentfly.datasets.public.hub import HubOptions, read_rows
from agentfly.datasets.task import EditTask
from agentfly.datasets.task_row import TaskRow, numbered
from agentfly.datasets.task_types import stable_task_type
from agentfly.errors import ConfigError, DatasetError, unknown_name
from agentfly.images import ImageSource

MULTI_TURN: tuple[str, ...] = ("chained", "session")


def public_rows(name: str, split: str | None, root: Path | None, options: HubOptions) -> Iterator[TaskRow]:
    """The rows of a data set by name.

    Raises:
        ConfigError: an option does not fit the data set.
        DatasetError: it cannot be read.
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
    _require(adapter, raw)
    row = adapter.prepare(raw)
    own_type = str(row[adapter.task_type]) if adapter.task_type else ""
    metadata = {ours: row[column] for ours, column in adapter.metadata.items() if row.get(column) is not None}
    if own_type:
        metadata["original_task_type"] = own_type
    image = next((row[column] for column in adapter.images if row.get(column) is not None), None)
    if image is None:
        raise DatasetError(f"column {' and '.join(adapter.images)} holds no image")
    mask = row[adapter.mask] if adapter.mask else None
    return EditTask(
        id="-".join(str(row[column]) for column in adapter.id),
        instruction=str(row[adapter.instruction] or "").strip(),
        images=(images.source(image),),
        target=_optional(row[adapter.target], images) if adapter.target else None,
        mask=None if mask is None else _mask(adapter, mask, images),
        task_type=stable_task_type(own_type),
        metadata=metadata,
    )


def _require(adapter: Adapter, row: Row) -> None:
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


def _mask(adapter: Adapter, value: Any, images: ImageFolder) -> Image.Image:
    # Runs are text, which a path would be too.
    return adapter.read_mask(value if isinstance(value, str) else images.source(value))


def _optional(value: Any, images: ImageFolder) -> ImageSource | None:
    return None if value is None else images.source(value)


def _sessions(name: str, adapter: Adapter, column: str, rows: Iterator[Row], images: ImageFolder) -> Iterator[TaskRow]:
    """Turns that follow each other in the data, and share a session, as one row."""
    start = 0
    for session, group in itertools.groupby(rows, key=lambda row: row.get(column)):
        turns = list(group)
        where = f"{name} rows {start} to {start + len(turns) - 1}"
        yield TaskRow(where, partial(_session, adapter, str(session), turns, images))
        start += len(turns)


def _session(adapter: Adapter, session: str, rows: Sequence[Row], images: ImageFolder) -> EditTask:
    tasks = sorted((_task(adapter, row, images) for row in rows), key=lambda task: int(task.metadata["turn"]))
    turns = [task.instruction for task in tasks]
    masks = [task.mask for task in tasks if isinstance(task.mask, Image.Image)]
    return EditTask(
        id=session,
        instruction=numbered(turns),
        images=tasks[0].images,
        target=tasks[-1].target,
        mask=_union(masks) if len(masks) == len(tasks) else None,
        task_type=tasks[0].task_type,
        metadata={"session": session, "turns": turns},
    )


def _union(masks: Sequence[Image.Image]) -> Image.Image | None:
    """What any of the turns may change; None where the images of the turns differ in size."""
    union = masks[0]
    for mask in masks[1:]:
        if mask.size != union.size:
            return None
        union = ImageChops.lighter(union, mask)
    return union
