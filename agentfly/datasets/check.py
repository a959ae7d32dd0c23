"""Check every row of a data set and report the wrong ones with their reasons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from agentfly.datasets.task import EditTask, TaskRow
from agentfly.errors import DatasetError, ImageError, ToolError, shortened
from agentfly.images import ImageSource, load_image, on_white, read_mask
from agentfly.images.masks import keep_levels
from agentfly.vision.detection.boxes import MAX_RATIO, MAX_TOKENS, least_tokens, normalise_prompt, too_long

# Relative difference of aspect ratios up to which a target counts as a resized image and not as another shape.
_SAME_SHAPE = 0.03
# Times that one side of an image is as long as the other, at most, for the processors of the Qwen policies.
_POLICY_RATIO = 200


@dataclass(frozen=True)
class Problem:
    """A fault of a row.

    Attributes:
        where: name of the row, such as "tasks.jsonl line 3".
        kind: one of "row", "instruction", "id", "image", "target", "mask", "metadata".
        reason: in words.
        id: of the task, None where the row is no task.
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
    """The findings of `check_rows`.

    Attributes:
        rows: number of rows.
        problems: in order.
        by_type: counts by task type.
        masks: number of masks by the form that they were taken for; see `agentfly.images.read_mask`.
    """

    rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    by_type: dict[str, TypeSummary] = field(default_factory=dict)
    masks: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if there are rows and none is wrong."""
        return self.rows > 0 and not self.problems

    def to_json(self) -> dict[str, object]:
        """Return the report as plain JSON."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "problems": [vars(problem) for problem in self.problems],
            "by_type": {name: vars(summary) for name, summary in sorted(self.by_type.items())},
            "masks": dict(sorted(self.masks.items())),
        }


def check_rows(rows: Iterable[TaskRow]) -> CheckReport:
    """Check that every row is a task, that its images open and are not too narrow, and that target and mask fit.

    Args:
        rows: of `task_rows`; memory is needed for one row and for the ids.

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
        problems = list(_problems(task, report.masks))
        first = seen.setdefault(task.id, row.where)
        if not task.id:
            problems.insert(0, ("id", "the id is empty"))
        elif first != row.where:
            problems.insert(0, ("id", f"id {shortened(task.id)!r} is also that of {first}"))
        report.problems += [Problem(row.where, kind, reason, task.id) for kind, reason in problems]
        summary = report.by_type.setdefault(task.task_type, TypeSummary())
        summary.tasks += 1
        summary.with_target += task.target is not None
        summary.with_mask += task.mask is not None
        summary.faulty += bool(problems)
    return report


def _problems(task: EditTask, masks: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield kind and reason of each fault of a task, and count its mask in `masks`."""
    if not task.instruction.strip():
        yield "instruction", "the instruction is empty"
    try:
        json.dumps(dict(task.metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as fault:
        yield "metadata", f"the metadata cannot be written as JSON: {fault}"
    yield from _prompt_problems(task.metadata.get("checks"))
    opened: list[Image.Image] = []
    for number, source in enumerate(task.images):
        image, reason = _open(source)
        if image is not None:
            opened.append(image)
            checks = task.metadata.get("checks")
            reason = _shape_problem(image, detected=isinstance(checks, (list, tuple)) and len(checks) > 0)
        if reason:
            yield "image", f"image {number + 1}: {reason}" if len(task.images) > 1 else reason
    # A task of words alone has neither.
    if not task.images and (task.target is not None or task.mask is not None):
        yield "image", "there is no image"
    first = opened[0] if opened and len(opened) == len(task.images) else None
    if task.target is not None:
        yield from _target_problems(task.target, first)
    if task.mask is not None:
        yield from _mask_problems(task.mask, first, masks)


def _shape_problem(image: Image.Image, *, detected: bool) -> str:
    """Return the reason for which a model cannot take an image of such a shape; empty if it can.

    Args:
        image: of a task.
        detected: the evaluator of the task shows it to a detector.
    """
    limits = {"a policy": _POLICY_RATIO, **({"the detector of its checks": MAX_RATIO} if detected else {})}
    for who, ratio in limits.items():
        if max(image.size) > ratio * min(image.size):
            return (
                f"the image is {_size(image)}: {who} takes none of which one side is more than {ratio} times as long "
                "as the other; crop it, or give it a border"
            )
    return ""


def _prompt_problems(checks: object) -> Iterator[tuple[str, str]]:
    """Yield the faults of what a detector is asked for by `DetectorCheckedEvaluator`."""
    for check in checks if isinstance(checks, (list, tuple)) else ():
        for words in check.values() if isinstance(check, Mapping) else ():
            if isinstance(words, str) and words:
                try:
                    least = least_tokens(normalise_prompt(words))
                except ToolError as fault:
                    yield "metadata", f"checks: {fault}"
                else:
                    if least > MAX_TOKENS:
                        yield "metadata", f"checks: {too_long(f'at least {least}', MAX_TOKENS)}"


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


def _mask_problems(source: ImageSource, first: Image.Image | None, masks: dict[str, int]) -> Iterator[tuple[str, str]]:
    try:
        mask = read_mask(load_image(source, convert=keep_levels))
    except ImageError as fault:
        yield "mask", str(fault)
        return
    masks[mask.form] = masks.get(mask.form, 0) + 1
    if first is not None and mask.image.size != first.size:
        yield "mask", f"the mask is {_size(mask.image)}, the image {_size(first)}: they must be equal"
    if mask.image.getbbox() is None:
        yield "mask", "the mask is black: white marks what must change"


def _open(source: ImageSource) -> tuple[Image.Image | None, str]:
    try:
        return load_image(source), ""
    except ImageError as fault:
        return None, str(fault)


def _rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(on_white(image))


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
