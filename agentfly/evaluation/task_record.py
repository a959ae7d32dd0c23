"""The record of one task: the task, the trajectory, and the result of each evaluator.

A record names images by their handles in the run's `images/`, so that scoring, galleries and comparisons need neither
the data set nor the agent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory import Trajectory
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.errors import ConfigError
from agentfly.evaluators import NotScored, Score
from agentfly.evaluators.judge.settings import JudgeUsage


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
        """Of the task; from the second attempt on with `#` and the number of the attempt."""
        return self.task.id

    @property
    def task_id(self) -> str:
        """Of the task, whichever attempt at it this is."""
        repeat = self.trajectory.repeat
        return self.task.id.removesuffix(f"#{repeat}") if repeat > 1 else self.task.id

    @property
    def failed(self) -> bool:
        """Whether a fault, not the agent's own doing, ended the task."""
        return self.trajectory.failed

    def value(self, evaluator: str) -> float | None:
        """The score (0 to 100) that an evaluator gave, None where it gave none or the task failed."""
        score = self.scores.get(evaluator)
        return score.value if isinstance(score, Score) and not self.failed else None

    def to_json(self) -> str:
        """Return the record as a line of `trajectories.jsonl`. A record that cannot be written becomes a failed one."""
        return TrajectoryLine(self.trajectory, self.task, self.scores, self.judges).to_json()

    @classmethod
    def of(cls, line: TrajectoryLine) -> TaskRecord:
        """Return the record of a line.

        Raises:
            ConfigError: the line has no task.
        """
        if line.task is None:
            raise ConfigError("it has no task")
        return cls(line.task, line.trajectory, line.headlines, line.judges)


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
