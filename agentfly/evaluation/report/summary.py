"""The figures of a run, by task type and over all tasks, as plain JSON.

A mean is taken over the tasks that an evaluator scored, and stands beside their number. Tasks without a score are
counted with their reasons. Their score is never taken as 0 or as any other value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NotRequired, TypedDict

import numpy as np

from agentfly.errors import short_paths
from agentfly.evaluation.protocols.figures import ProtocolSummary, summarise_protocol
from agentfly.evaluation.protocols.spec import BoundProtocol
from agentfly.evaluation.report.repeats import Costs, Interval, Repeats, costs_of, repeats_of, values_by_task
from agentfly.evaluation.task_record import TaskRecord
from agentfly.evaluators import NotScored
from agentfly.evaluators.bootstrap import SUCCESS, estimate
from agentfly.evaluators.judge.settings import JudgeUsage

ALL: Final = "all"
_MAX_REASONS = 5
_MAX_REASON = 200


class About(TypedDict):
    """The subject of a run: agent, model, data set, and the seconds that the run took."""

    agent: str
    model: str | None
    data: str
    split: str | None
    wall_clock_seconds: NotRequired[float]


class Scores(TypedDict):
    """The scores of one evaluator; `reasons` counts the most frequent reasons for a missing one."""

    score: Interval | None
    scored: int
    not_scored: int
    reasons: dict[str, int]


class Judging(TypedDict):
    """The work of one judge; `cost` is None where no price is known."""

    requests: int
    failed_requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    seconds: float


class Figures(TypedDict):
    """The figures of some tasks.

    `attempts` are more than `tasks` in a run with repeats, whose figures are `repeats`, by evaluator. `turns`,
    `tool_calls`, `look_calls` (those of them that only look) and `tool_errors` are means per attempt; `tokens` are sums
    of the policy's tokens, None where the backend does not count them; `seconds` holds "mean", "p50" and "p95" of an
    attempt.
    """

    tasks: int
    attempts: int
    failed: int
    scores: dict[str, Scores]
    success: Interval | None
    turns: float | None
    tool_calls: float | None
    look_calls: float | None
    tool_errors: float | None
    tools: dict[str, int]
    tokens: dict[str, int] | None
    judge: dict[str, Judging]
    seconds: dict[str, float] | None
    stop_reasons: dict[str, int]
    cost: Costs | None
    repeats: NotRequired[dict[str, Repeats]]


class Summary(About):
    """The content of `summary.json`; `evaluators` are labels, the headline first; `protocol` is of a benchmark."""

    evaluators: list[str]
    success_from: float
    all: Figures
    by_type: dict[str, Figures]
    protocol: ProtocolSummary | None


def summarise(
    records: Sequence[TaskRecord], labels: Sequence[str], about: About, protocol: BoundProtocol | None = None
) -> Summary:
    """Return the summary of a run.

    Args:
        records: of its tasks.
        labels: of its evaluators, the headline first.
        about: agent and data set.
        protocol: of a benchmark, where there is one.
    """
    types = sorted({record.task.task_type for record in records})
    groups = {name: [record for record in records if record.task.task_type == name] for name in types}
    return {
        **about,
        "evaluators": list(labels),
        "success_from": SUCCESS,
        "all": figures(records, labels),
        "by_type": {name: figures(group, labels) for name, group in groups.items()},
        "protocol": None if protocol is None else summarise_protocol(protocol, records),
    }


def figures(records: Sequence[TaskRecord], labels: Sequence[str]) -> Figures:
    """Return the figures of some tasks.

    Args:
        records: of the tasks.
        labels: of the evaluators, the headline first.
    """
    trajectories = [record.trajectory for record in records]
    calls = [call for trajectory in trajectories for call in trajectory.tool_records]
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    prompt, completion = sum(turn.prompt_tokens for turn in turns), sum(turn.completion_tokens for turn in turns)
    seconds = None
    if trajectories:
        times = [trajectory.seconds for trajectory in trajectories]
        names, values = ("mean", "p50", "p95"), (np.mean(times), *np.percentile(times, (50, 95)))
        seconds = {name: round(float(value), 3) for name, value in zip(names, values, strict=True)}
    tasks = len({record.task_id for record in records})
    found: Figures = {
        "tasks": tasks,
        "attempts": len(records),
        "failed": sum(record.failed for record in records),
        "scores": {label: _scores(records, label) for label in labels},
        "success": interval(
            mean_of(value >= SUCCESS for value in values) for values in values_by_task(records, labels[0]).values()
        ),
        "turns": mean(len(trajectory.turns) for trajectory in trajectories),
        "tool_calls": mean(len(trajectory.tool_records) for trajectory in trajectories),
        "look_calls": mean(sum(call.looks for call in trajectory.tool_records) for trajectory in trajectories),
        "tool_errors": mean(sum(c.error is not None for c in t.tool_records) for t in trajectories),
        "tools": dict(Counter(call.name or "malformed" for call in calls).most_common()),
        "tokens": {"prompt": prompt, "completion": completion} if prompt or completion else None,
        "judge": _judging(records, labels),
        "seconds": seconds,
        "stop_reasons": dict(
            Counter(t.stop_reason.value if t.stop_reason else "unknown" for t in trajectories).most_common()
        ),
        "cost": costs_of(records, labels[0]),
    }
    if len(records) > tasks:
        found["repeats"] = {label: repeats_of(records, label) for label in labels}
    return found


def interval(values: Iterable[float]) -> Interval | None:
    """Return the mean with its 95 % interval, None of no values."""
    found = list(values)
    return estimate(found).to_dict() if found else None


def mean(values: Iterable[float]) -> float | None:
    """Return the mean, None of no values."""
    found = list(values)
    return round(mean_of(found), 3) if found else None


def mean_of(values: Iterable[float]) -> float:
    """Return the mean of at least one value."""
    return float(np.mean(list(values)))


def _scores(records: Sequence[TaskRecord], label: str) -> Scores:
    values = values_by_task(records, label)
    scored = sum(map(len, values.values()))
    missing = [score.reason for record in records if isinstance(score := record.scores.get(label), NotScored)]
    reasons = Counter(short_paths(reason)[:_MAX_REASON] for reason in missing).most_common(_MAX_REASONS)
    return {
        "score": interval(map(mean_of, values.values())),
        "scored": scored,
        "not_scored": len(records) - scored,
        "reasons": dict(reasons),
    }


def _judging(records: Iterable[TaskRecord], labels: Iterable[str]) -> dict[str, Judging]:
    """Return the work of the judges by label."""
    found: dict[str, Judging] = {}
    for label in labels:
        accounts = [record.judges[label] for record in records if label in record.judges]
        if not accounts:
            continue
        total = JudgeUsage()
        for account in accounts:
            total.add(account)
        found[label] = {
            "requests": total.requests,
            "failed_requests": total.failed,
            "prompt_tokens": total.prompt_tokens,
            "completion_tokens": total.completion_tokens,
            "cost": round(total.cost, 6) if total.cost else None,
            "seconds": round(total.seconds, 2),
        }
    return found
