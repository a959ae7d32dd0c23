"""Check every row of a data set and say which rows are wrong and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from agentfly.datasets.task import EditTask
from agentfly.datasets.task_row import TaskRow
from agentfly.errors import DatasetError, ImageError
from agentfly.images import ImageSource, load_image

# Relative difference of aspect ratios up to which a target is a resized one, and not an image of another shape.
_SAME_SHAPE = 0.03


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row.

    Attributes:
        where: the row, e.g. "tasks.jsonl line 3".
        kind: one of "row", "instruction", "id", "image", "target", "mask", "metadata".
        reason: in words.
        id: of the task, where the row has got that far.
    """

    where: str
    kind: str
    reason: str
    id: str | None = None


@dataclass
class TypeSummary:
    """Counts of the tasks of one type."""

    tasks: int = 0
    with_target: int = 0
    with_mask: int = 0
    faulty: int = 0


@dataclass
class CheckReport:
    """What `check_rows` found: rows looked at, problems in their order, and counts by task type."""

    rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    by_type: dict[str, TypeSummary] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, and there is something."""
        return self.rows > 0 and not self.problems

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "problems": [vars(problem) for problem in self.problems],
            "by_type": {name: vars(summary) for name, summary in sorted(self.by_type.items())},
        }


def check_rows(rows: Iterable[TaskRow]) -> CheckReport:
    """Look at every row: is it a task, do its images open, do target and mask fit.

    Args:
        rows: as `task_rows` gives them; memory is taken for one row, and for the ids.

    Raises:
        DatasetError: the data set itself cannot be read.
    """
    report = CheckReport()
    seen: dict[str, str] = {}
    for row in rows:
        report.rows += 1
        try:
            task = row.make()
        except (DatasetError, ImageError) as fault:
            report.problems.append(Problem(row.where, "row", str(fault)))
            continue
        problems = [*_same_id(task, row.where, seen), *_problems(task)]
        report.problems += [Problem(row.where, kind, reason, task.id) for kind, reason in problems]
        summary = report.by_type.setdefault(task.task_type, TypeSummary())
        summary.tasks += 1
        summary.with_target += task.target is not None
        summary.with_mask += task.mask is not None
        summary.faulty += bool(problems)
    return report


def _same_id(task: EditTask, where: str, seen: dict[str, str]) -> Iterator[tuple[str, str]]:
    first = seen.setdefault(task.id, where)
    if not task.id:
        yield "id", "the id is empty"
    elif first != where:
        yield "id", f"id {task.id!r} is also that of {first}"


def _problems(task: EditTask) -> Iterator[tuple[str, str]]:
    if not task.instruction.strip():
        yield "instruction", "the instruction is empty"
    yield from _metadata_problems(task.metadata)
    opened: list[Image.Image] = []
    for number, source in enumerate(task.images):
        image, reason = _open(source)
        if image is None:
            yield "image", f"image {number + 1}: {reason}" if len(task.images) > 1 else reason
        else:
            opened.append(image)
    if not task.images:
        yield "image", "there is no image"
    first = opened[0] if opened and len(opened) == len(task.images) else None
    if task.target is not None:
        yield from _target_problems(task.target, first)
    if task.mask is not None:
        yield from _mask_problems(task.mask, first)


def _metadata_problems(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        json.dumps(dict(metadata))
    except (TypeError, ValueError) as fault:
        yield "metadata", f"the metadata cannot be written as JSON: {fault}"


def _target_problems(source: ImageSource, first: Image.Image | None) -> Iterator[tuple[str, str]]:
    target, reason = _open(source)
    if target is None:
        yield "target", reason
    elif first is not None:
        ratio = (target.width * first.height) / (target.height * first.width)
        if abs(ratio - 1) > _SAME_SHAPE:
            yield "target", f"the target is {_size(target)}, the image {_size(first)}: another shape"
        elif target.size == first.size and np.array_equal(_rgb(target), _rgb(first)):
            yield "target", "the target equals the image: nothing is to be done"


def _mask_problems(source: ImageSource, first: Image.Image | None) -> Iterator[tuple[str, str]]:
    mask, reason = _open(source)
    if mask is None:
        yield "mask", reason
        return
    if first is not None and mask.size != first.size:
        yield "mask", f"the mask is {_size(mask)}, the image {_size(first)}: they must be equal"
    if not np.asarray(mask.convert("L")).any():
        yield "mask", "the mask is black: white marks what must change"


def _open(source: ImageSource) -> tuple[Image.Image | None, str]:
    try:
        return load_image(source), ""
    except ImageError as fault:
        return None, str(fault)


def _rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
