"""The record of one task: the task, what the agent did, and the result of each evaluator.

A record names images by their handles in the run's `images/`, so that scoring, galleries and comparisons need neither
the data set nor the agent again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agentfly.agents.trajectory import Trajectory, plain
from agentfly.datasets.task import EditTask
from agentfly.errors import ImageError
from agentfly.evaluators import EditSample, NotScored, Score
from agentfly.evaluators.judge.settings import JudgeUsage
from agentfly.images import ImageSource, ImageStore, load_image


@dataclass(frozen=True)
class TaskFacts:
    """A task with its images as handles.

    Attributes:
        id, instruction, task_type, metadata: of the task.
        images: of the images to edit, the one to edit first; empty where they are not known.
        target, mask: where they are known.
    """

    id: str
    instruction: str
    task_type: str = "edit"
    images: tuple[str, ...] = ()
    target: str | None = None
    mask: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def keep(cls, task: EditTask, store: ImageStore) -> TaskFacts:
        """Put the images of a task into a store.

        Raises:
            ImageError: an image cannot be loaded.
        """

        def put(source: ImageSource | None) -> str | None:
            return None if source is None else store.put(load_image(source))

        images = tuple(store.put(load_image(source)) for source in task.images)
        return cls(*_words(task), images, put(task.target), put(task.mask), task.metadata)

    @classmethod
    def without_images(cls, task: EditTask) -> TaskFacts:
        """The words of a task whose images cannot be loaded."""
        return cls(*_words(task), metadata=task.metadata)

    @property
    def fingerprint(self) -> str:
        """What two runs must share to be about the same task: its words and its images."""
        content = json.dumps([self.instruction, self.images, self.target, self.mask], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def sample(self, store: ImageStore, result: str | None) -> EditSample:
        """What an evaluator looks at.

        Raises:
            ImageError: an image is not in the store.
        """
        if not self.images:
            raise ImageError("the source image is not known")
        return EditSample(
            instruction=self.instruction,
            source=store.get(self.images[0]),
            result=None if result is None else store.get(result),
            target=None if self.target is None else store.get(self.target),
            mask=None if self.mask is None else store.get(self.mask),
            metadata=self.metadata,
        )


@dataclass(frozen=True)
class TaskRecord:
    """One finished task.

    Attributes:
        task: what was asked.
        trajectory: what was done; its `score` is the first evaluator's, None where that gave none.
        scores: by evaluator; a `NotScored` says why there is none.
        judges: what judging took, by evaluator; only those that ask a model.
    """

    task: TaskFacts
    trajectory: Trajectory
    scores: Mapping[str, Score | NotScored] = field(default_factory=dict)
    judges: Mapping[str, JudgeUsage] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Of the task."""
        return self.task.id

    @property
    def failed(self) -> bool:
        """Whether a fault, not the agent's own doing, ended the task."""
        reason = self.trajectory.stop_reason
        return reason is None or reason.failed

    def value(self, evaluator: str) -> float | None:
        """The score (0 to 100) that an evaluator gave, None where it gave none."""
        score = self.scores.get(evaluator)
        return score.value if isinstance(score, Score) else None

    def to_json(self) -> str:
        """One line of JSON that `from_dict` reads back equal, metadata that JSON does not know apart."""
        data = {
            "task": asdict(self.task),
            "scores": {name: _score_to_dict(score) for name, score in self.scores.items()},
            "judges": {name: asdict(usage) for name, usage in self.judges.items()},
        }
        head = json.dumps(data, ensure_ascii=False, default=plain)
        return f'{head[:-1]}, "trajectory": {self.trajectory.to_json()}}}'

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskRecord:
        """The record of a parsed line."""
        task = {**data["task"], "images": tuple(data["task"]["images"])}
        return cls(
            TaskFacts(**task),
            Trajectory.from_dict(data["trajectory"]),
            {name: _score_from_dict(score) for name, score in data["scores"].items()},
            {name: JudgeUsage(**usage) for name, usage in data.get("judges", {}).items()},
        )


def without_hollow_scores(records: Iterable[TaskRecord]) -> list[TaskRecord]:
    """Records whose scores came from somebody who looked.

    A judge gives an unchanged image its 0 without a request. Where it answered none of a run's requests, such zeros
    would be all that the run has, and would look like a result.
    """
    records = list(records)
    for label in {label for record in records for label in record.judges}:
        accounts = [record.judges[label] for record in records if label in record.judges]
        if any(one.failed for one in accounts) and not any(one.requests > one.failed for one in accounts):
            reason = NotScored("the judge answered no request of this run: an unchanged image has no score either")
            records = [
                replace(record, scores={**record.scores, label: reason}) if record.value(label) is not None else record
                for record in records
            ]
    return records


def _words(task: EditTask) -> tuple[str, str, str]:
    return task.id, task.instruction, task.task_type


def _score_to_dict(score: Score | NotScored) -> dict[str, Any]:
    if isinstance(score, NotScored):
        return {"not_scored": score.reason}
    return {"value": score.value, "feedback": score.feedback, "aspects": dict(score.aspects)}


def _score_from_dict(data: Mapping[str, Any]) -> Score | NotScored:
    return NotScored(data["not_scored"]) if "not_scored" in data else Score(**data)
