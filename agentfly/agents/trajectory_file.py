"""The format of `trajectories.jsonl`, written by runs, evaluations, training and the quickstart, and read here.

A line is a JSON object; keys that do not apply are left out:

    format       "agentfly.trajectory/1"
    step         training step; 0 before the first update
    validate     true for a chain of a validation, false for one that is trained on
    task         id, type, instruction; where the whole task is known also images, target, mask (handles), metadata
    trajectory   see `Trajectory`
    evaluations  by evaluator: value (0 to 100), aspects, feedback; or not_scored with the reason; usage of a judge. In
                 training the score is that of the trajectory, and the only entry is "audit", of the auditing evaluator
    credit       in training with credit by turn: the reward of each turn; they add up to that of the trajectory
    images_kept  false where the images of the chain were not kept; training has a limit for them
    fingerprint  hash of the conversation, by which a log folder resumes

Images lie beside the file in `images/`, named by their handles. Lines of version 0.1 had no format: bare trajectories,
and lines with `scores` and `judges`, with `task_type`, or with a task that has `task_type` for `type`. Their images lay
in `images/` or `pictures/`. They are still read.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory import Trajectory, plain
from agentfly.errors import ConfigError
from agentfly.evaluators import NotScored, Score
from agentfly.evaluators.judge.settings import JudgeUsage
from agentfly.files import append_shared, read_lines
from agentfly.messages import Message, TextPart

logger = logging.getLogger(__name__)

FORMAT = "agentfly.trajectory/1"
FILE_NAME = "trajectories.jsonl"
IMAGES = "images"
IMAGE_FOLDERS = (IMAGES, "pictures")
AUDIT = "audit"  # the name of the auditing evaluator of a training


@dataclass(frozen=True)
class TrajectoryLine:
    """One line of a file of trajectories.

    Attributes:
        trajectory: what was done.
        task: what was asked; None where a chain was run on messages alone.
        scores: by evaluator; a `NotScored` holds the reason. See `headlines` for those that give a chain its score.
        judges: usage of the evaluators that ask a model, by evaluator.
        step: training step; None outside of training.
        validate: the chain belongs to a validation; None outside of training.
        images_kept: False where the images of the chain were not kept.
        fingerprint: hash of the conversation; None where nothing resumes from the file.
        credit: reward of each turn; empty where the reward was not divided.
    """

    trajectory: Trajectory
    task: TaskFacts | None = None
    scores: Mapping[str, Score | NotScored] = field(default_factory=dict)
    judges: Mapping[str, JudgeUsage] = field(default_factory=dict)
    step: int | None = None
    validate: bool | None = None
    images_kept: bool = True
    fingerprint: str | None = None
    credit: tuple[float, ...] = ()

    @classmethod
    def of_chain(
        cls,
        trajectory: Trajectory,
        *,
        step: int | None = None,
        validate: bool | None = None,
        images_kept: bool = True,
        credit: tuple[float, ...] = (),
        audit: float | None = None,
    ) -> TrajectoryLine:
        """Return the line of a chain whose whole task stays in its data set: id, type and instruction are kept.

        Args:
            trajectory: of the chain.
            step, validate, images_kept, credit: see the attributes.
            audit: score of the auditing evaluator, 0 to 100; NaN where it gave none, None where it was not asked.
        """
        task = cls(trajectory).described_task()
        facts = TaskFacts(task.id, task.instruction, task.task_type)
        scores: dict[str, Score | NotScored] = {}
        if audit is not None:
            scores[AUDIT] = NotScored("the auditing evaluator gave no score") if math.isnan(audit) else Score(audit)
        return cls(
            trajectory, facts, scores, step=step, validate=validate, images_kept=images_kept, credit=tuple(credit)
        )

    @property
    def headlines(self) -> Mapping[str, Score | NotScored]:
        """The scores by evaluator without that of an audit, which never is the score of a chain."""
        return self.scores if self.step is None else {k: v for k, v in self.scores.items() if k != AUDIT}

    @property
    def whole_task(self) -> bool:
        """The task is known with its images, not only from the messages."""
        return self.task is not None and bool(self.task.images)

    def described_task(self) -> TaskFacts:
        """Return the task, or what the metadata and the first messages of the chain say about it."""
        trajectory, known = self.trajectory, self.task
        if known is not None and known.images:
            return known
        asked = [message for message in first_messages(trajectory) if message.role == "user"]
        names = {f"{name}:" for name in trajectory.names}
        words = [part.text for part in asked[-1].parts if isinstance(part, TextPart)] if asked else []
        images = tuple(handle for message in asked for handle in message.images)
        if known is not None:
            return TaskFacts(known.id, known.instruction, known.task_type, images, metadata=known.metadata)
        return TaskFacts(
            str(trajectory.metadata.get("id") or trajectory.group_id),
            "".join(text for text in words if text.strip() not in names).strip(),
            str(trajectory.metadata.get("task_type") or "edit"),
            images,
        )

    def to_json(self) -> str:
        """Return the line, without its end. Metadata that JSON does not know is described; see `Trajectory.to_dict`.

        A chain that cannot be written becomes a failed one; see `Trajectory.fail_unwritten`.
        """
        try:
            return self._to_json()
        except Exception as fault:  # whatever an object in the metadata raises when it is described
            logger.warning("chain %s cannot be written: %s: %s", self.trajectory.id, type(fault).__name__, fault)
            self.trajectory.fail_unwritten(fault)
        failed = NotScored(f"the agent failed: {self.trajectory.error}")
        task = None if self.task is None else replace(self.task, metadata={})
        return replace(self, task=task, scores=dict.fromkeys(self.scores, failed), credit=())._to_json()

    def _to_json(self) -> str:
        evaluations: dict[str, dict[str, object]] = {}
        for name, score in self.scores.items():
            if isinstance(score, NotScored):
                evaluations[name] = {"not_scored": score.reason}
            else:
                evaluations[name] = {"value": score.value, "feedback": score.feedback, "aspects": dict(score.aspects)}
            if name in self.judges:
                evaluations[name]["usage"] = asdict(self.judges[name])
        data = {
            "format": FORMAT,
            "step": self.step,
            "validate": self.validate,
            "task": None if self.task is None else self.task.to_dict(),
            "trajectory": self.trajectory.to_dict(),
            "evaluations": evaluations or None,
            "credit": list(self.credit) or None,
            "images_kept": None if self.images_kept else False,
            "fingerprint": self.fingerprint,
        }
        present = {key: value for key, value in data.items() if value is not None}
        return json.dumps(present, ensure_ascii=False, default=plain)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrajectoryLine:
        """Return the line of a parsed JSON object, in this form or one of version 0.1.

        Raises:
            ConfigError: the object is no line, or one of a later version; the message goes on after "line N".
        """
        try:
            form = data.get("format", FORMAT)
        except AttributeError as fault:
            raise ConfigError("is no trajectory, but a JSON value of another kind") from fault
        if form != FORMAT:
            raise ConfigError(f"has the format {str(form)[:60]!r}: upgrade agentfly to read it")
        try:
            evaluations = data.get("evaluations") or _evaluations_of_0_1(data)
            return cls(
                trajectory=Trajectory.from_dict(data.get("trajectory", data)),
                task=TaskFacts.from_dict(data["task"]) if "task" in data else None,
                scores={
                    name: NotScored(found["not_scored"])
                    if "not_scored" in found
                    else Score(found["value"], found.get("feedback", ""), found.get("aspects", {}))
                    for name, found in evaluations.items()
                },
                judges={name: JudgeUsage(**found["usage"]) for name, found in evaluations.items() if "usage" in found},
                step=data.get("step"),
                validate=data.get("validate"),
                images_kept=data.get("images_kept") is not False,
                fingerprint=data.get("fingerprint"),
                credit=tuple(float(value) for value in data.get("credit") or ()),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise ConfigError(f"is no trajectory ({type(fault).__name__}: {fault})") from fault


def read_trajectories(path: Path) -> Iterator[tuple[int, TrajectoryLine]]:
    """Yield the lines of a file with their numbers. A torn last line, which a killed run leaves, is passed over.

    Raises:
        ConfigError: the file cannot be read, or a line is no trajectory.
    """
    try:
        for number, data in read_lines(path):
            try:
                yield number, TrajectoryLine.from_dict(data)
            except ConfigError as fault:
                raise ConfigError(f"{path}, line {number} {fault}") from fault
    except OSError as fault:
        raise ConfigError(f"{path} cannot be read: {fault.strerror or fault}") from fault


def append_line(path: Path, line: TrajectoryLine) -> None:
    """Append a line to a file that several processes may append to at once; see `append_shared`."""
    append_shared(path, line.to_json())


def image_folder(file: Path) -> Path | None:
    """Return the folder of the images of a file of trajectories; None where none were kept."""
    return next((file.parent / name for name in IMAGE_FOLDERS if (file.parent / name).is_dir()), None)


def first_messages(trajectory: Trajectory) -> list[Message]:
    """Return the messages that a chain began with. They may hold turns of an earlier conversation."""
    spoken = [place for place, message in enumerate(trajectory.messages) if message.role == "assistant"]
    turns = len(trajectory.turns)
    return list(trajectory.messages[: spoken[len(spoken) - turns]] if 0 < turns <= len(spoken) else trajectory.messages)


def _evaluations_of_0_1(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    judges = data.get("judges", {})
    return {
        name: {**score, **({"usage": judges[name]} if name in judges else {})}
        for name, score in data.get("scores", {}).items()
    }
