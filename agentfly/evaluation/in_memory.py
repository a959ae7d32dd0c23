"""Evaluate an agent in one process and in memory, for the quickstart.

Benchmarks use `agentfly.evaluation.run`, which can be resumed and keeps every image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from agentfly.agents.agent import Agent
from agentfly.agents.tasks import EvaluationSetup, score_trajectory, task_conversation
from agentfly.agents.trajectory import Trajectory
from agentfly.datasets.task import EditTask
from agentfly.evaluators.bootstrap import SUCCESS, Estimate, estimate


class EvaluationSummary(TypedDict):
    """Plain JSON. An estimate has "mean", "low" and "high": points from 0 to 100 of scores, shares of success."""

    tasks: int
    tasks_by_family: dict[str, int]
    score: dict[str, float]
    score_by_family: dict[str, dict[str, float]]
    success: dict[str, dict[str, float]]
    tool_calls_per_task: float
    look_calls_per_task: float
    stop_reasons: dict[str, int]
    choices: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Evaluation:
    """Scored trajectories of one agent, in the order of the tasks.

    Attributes:
        trajectories: one per task.
        families: task type of each.
    """

    trajectories: tuple[Trajectory, ...] = field(default_factory=tuple)
    families: tuple[str, ...] = field(default_factory=tuple)

    def scores(self, family: str | None = None) -> NDArray[np.float64]:
        """Return the scores (0 to 100) of a family, or of all tasks, shape (tasks,)."""
        pairs = zip(self.trajectories, self.families, strict=True)
        return np.array([t.score or 0.0 for t, name in pairs if family in (None, name)])

    def summary(self) -> EvaluationSummary:
        """Return mean score, success by family, stop reasons, tools and parameters."""
        names = sorted(set(self.families))
        return {
            "tasks": len(self.trajectories),
            "tasks_by_family": dict(Counter(self.families)),
            "score": estimate(self.scores()).to_dict(),
            "score_by_family": {name: estimate(self.scores(name)).to_dict() for name in names},
            "success": {
                "all": estimate(self.scores() >= SUCCESS).to_dict(),
                **{name: estimate(self.scores(name) >= SUCCESS).to_dict() for name in names},
            },
            "tool_calls_per_task": round(float(np.mean([len(t.tool_records) for t in self.trajectories])), 2),
            "look_calls_per_task": round(
                float(np.mean([sum(r.looks for r in t.tool_records) for t in self.trajectories])), 2
            ),
            "stop_reasons": dict(Counter(t.stop_reason.value for t in self.trajectories if t.stop_reason)),
            "choices": choices(self.trajectories),
        }


def paired_difference(before: Evaluation, after: Evaluation, family: str | None = None) -> Estimate:
    """Return the mean gain in score on the same tasks, with its interval.

    Args:
        before, after: evaluations of the same tasks.
        family: of the tasks; all of them by default.
    """
    return estimate(after.scores(family) - before.scores(family))


def choices(trajectories: Iterable[Trajectory]) -> dict[str, dict[str, int]]:
    """Return how often each tool, and each value of box_threshold and auto_mask_dilate, was chosen."""
    counts: dict[str, Counter[str]] = {"tool": Counter(), "box_threshold": Counter(), "auto_mask_dilate": Counter()}
    for trajectory in trajectories:
        for record in trajectory.tool_records:
            counts["tool"][record.name or "malformed"] += 1
            for parameter in ("box_threshold", "auto_mask_dilate"):
                if parameter in record.arguments:
                    counts[parameter][str(record.arguments[parameter])] += 1
    return {name: dict(counter.most_common()) for name, counter in counts.items()}


async def evaluate_agent(agent: Agent, tasks: Sequence[EditTask], setup: EvaluationSetup) -> Evaluation:
    """Run and score one chain per task.

    Args:
        agent: runs the chains.
        tasks: to attempt.
        setup: evaluator and limits of the scoring.
    """
    conversations: list[Mapping[str, object]] = [task_conversation(task) for task in tasks]
    result = await agent.run(messages=conversations)
    scored = [
        await score_trajectory(trajectory, task, agent.store, setup)
        for trajectory, task in zip(result, tasks, strict=True)
    ]
    return Evaluation(tuple(scored), tuple(task.task_type for task in tasks))
