"""Several attempts at each task: pass@k, mean@k, the variance within tasks, and what a point of score costs.

Of n scored attempts at a task, c of which succeed (a score of `SUCCESS` or more), the unbiased estimate of pass@k is

    pass@k = 1 - C(n - c, k) / C(n, k)

(Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv:2107.03374, equation 1), averaged over the
tasks with at least k scored attempts. mean@k is the mean over tasks of the mean score of their attempts, whose
expectation does not depend on k. The variance within tasks is the mean over tasks of the unbiased variance of a task's
scores. Intervals are bootstraps over tasks: attempts at one task are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np

from agentfly.evaluation.task_record import TaskRecord
from agentfly.evaluators.bootstrap import SUCCESS, estimate

Interval = dict[str, float]  # "mean", "low", "high": a mean with its 95 % interval


class Repeats(TypedDict):
    """The attempts of one evaluator: by k the interval of pass@k (0 to 1) and the number of tasks that it rests on.

    `mean_at_k` (0 to 100) is over all scored attempts. `variance_within` and `variance_between` are of scores: within a
    task, None if no task has two, and of the tasks' means, None of one task.
    """

    pass_at: dict[str, Interval]
    tasks_at: dict[str, int]
    mean_at_k: Interval | None
    variance_within: float | None
    variance_between: float | None


class Cost(TypedDict):
    """What something took: tokens of the policy, money of the judges, seconds in tools, and edits.

    `tokens` is None where the backend does not count them, `judge` where no price is known.
    """

    tokens: float | None
    judge: float | None
    tool_seconds: float
    edits: float


class Costs(TypedDict):
    """The cost of one attempt, and of one point of the headline's score; the latter is None without a point."""

    attempt: Cost
    point: Cost | None


def pass_at_k(attempts: int, successes: int, k: int) -> float:
    """Return the unbiased estimate of pass@k for one task.

    Args:
        attempts: n, at least `k`.
        successes: c among them.
        k: attempts of which one must succeed.
    """
    return 1.0 - math.comb(attempts - successes, k) / math.comb(attempts, k)


def values_by_task(records: Iterable[TaskRecord], label: str) -> dict[str, list[float]]:
    """Return the scores (0 to 100) of each task that has any, by its id.

    Args:
        records: one for each attempt.
        label: of the evaluator.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        if (value := record.value(label)) is not None:
            found.setdefault(record.task_id, []).append(value)
    return found


def passes(values: Mapping[str, Sequence[float]], k: int) -> dict[str, float]:
    """Return pass@k of each task with at least k scores, by its id.

    Args:
        values: of `values_by_task`.
        k: attempts of which one must succeed.
    """
    return {
        task: pass_at_k(len(scores), sum(score >= SUCCESS for score in scores), k)
        for task, scores in values.items()
        if len(scores) >= k
    }


def repeats_of(records: Sequence[TaskRecord], label: str) -> Repeats:
    """Return the figures of several attempts at each task, by one evaluator."""
    values = values_by_task(records, label)
    most = max(map(len, values.values()), default=0)
    found = {str(k): passes(values, k) for k in range(1, most + 1)}
    means = [float(np.mean(scores)) for scores in values.values()]
    within = [float(np.var(scores, ddof=1)) for scores in values.values() if len(scores) > 1]
    return {
        "pass_at": {k: estimate(shares.values()).to_dict() for k, shares in found.items()},
        "tasks_at": {k: len(shares) for k, shares in found.items()},
        "mean_at_k": estimate(means).to_dict() if means else None,
        "variance_within": round(float(np.mean(within)), 3) if within else None,
        "variance_between": round(float(np.var(means, ddof=1)), 3) if len(means) > 1 else None,
    }


def costs_of(records: Sequence[TaskRecord], label: str) -> Costs | None:
    """Return the mean cost of an attempt and of a point of score; None without an attempt.

    Args:
        records: one for each attempt.
        label: of the headline.
    """
    if not records:
        return None
    turns = [turn for record in records for turn in record.trajectory.turns]
    calls = [call for record in records for call in record.trajectory.tool_records]
    tokens = sum(turn.prompt_tokens + turn.completion_tokens for turn in turns)
    money = sum(usage.cost for record in records for usage in record.judges.values())
    total: Cost = {
        "tokens": float(tokens) if tokens else None,
        "judge": money or None,
        "tool_seconds": sum(call.seconds for call in calls),
        "edits": float(sum(map(_edits, records))),
    }
    points = sum(value for record in records if (value := record.value(label)) is not None)
    return {"attempt": _over(total, len(records)), "point": _over(total, points) if points else None}


def _edits(record: TaskRecord) -> int:
    """Count the calls that made an image; the answer names one that is there already."""
    known, made = set(record.task.images), 0
    for call in record.trajectory.tool_records:
        made += call.error is None and not call.looks and not known.issuperset(call.images)
        known.update(call.images)
    return made


def _over(total: Cost, number: float) -> Cost:
    return {
        "tokens": None if total["tokens"] is None else round(total["tokens"] / number, 3),
        "judge": None if total["judge"] is None else round(total["judge"] / number, 9),
        "tool_seconds": round(total["tool_seconds"] / number, 6),
        "edits": round(total["edits"] / number, 6),
    }
