"""The figures of a run: by task type and over all tasks, as plain JSON.

A mean is over the tasks that an evaluator scored, and says how many those are; what was not scored is counted with its
reasons. It is never taken as 0 or as any other value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agentfly.errors import short_paths
from agentfly.evaluation.task_record import TaskRecord
from agentfly.evaluators import NotScored
from agentfly.evaluators.bootstrap import SUCCESS, estimate
from agentfly.evaluators.judge.settings import JudgeUsage

ALL = "all"
_MAX_REASONS = 5
_MAX_REASON = 200


def summarise(records: Sequence[TaskRecord], labels: Sequence[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a run.

    Args:
        records: of its tasks.
        labels: of its evaluators, the headline first.
        about: what was evaluated, on what.
    """
    types = sorted({record.task.task_type for record in records})
    groups = {name: [record for record in records if record.task.task_type == name] for name in types}
    return {
        **about,
        "evaluators": list(labels),
        "success_from": SUCCESS,
        ALL: figures(records, labels),
        "by_type": {name: figures(group, labels) for name, group in groups.items()},
    }


def figures(records: Sequence[TaskRecord], labels: Sequence[str]) -> dict[str, Any]:
    """Figures of some tasks."""
    trajectories = [record.trajectory for record in records]
    calls = [record for trajectory in trajectories for record in trajectory.tool_records]
    return {
        "tasks": len(records),
        "failed": sum(record.failed for record in records),
        "scores": {label: _scores(records, label) for label in labels},
        "success": interval(value >= SUCCESS for value in _values(records, labels[0])),
        "turns": mean(len(trajectory.turns) for trajectory in trajectories),
        "tool_calls": mean(len(trajectory.tool_records) for trajectory in trajectories),
        "tool_errors": mean(sum(c.error is not None for c in t.tool_records) for t in trajectories),
        "tools": dict(Counter(call.name or "malformed" for call in calls).most_common()),
        "tokens": _tokens(records),
        "judge": _judging(records, labels),
        "seconds": _seconds([trajectory.seconds for trajectory in trajectories]),
        "stop_reasons": dict(
            Counter(t.stop_reason.value if t.stop_reason else "unknown" for t in trajectories).most_common()
        ),
    }


def interval(values: Iterable[float]) -> dict[str, float] | None:
    """Mean with its 95 % interval, None of no values."""
    found = list(values)
    return estimate(found).to_dict() if found else None


def mean(values: Iterable[float]) -> float | None:
    """Mean, None of no values."""
    found = list(values)
    return round(float(np.mean(found)), 3) if found else None


def _values(records: Iterable[TaskRecord], label: str) -> list[float]:
    return [value for record in records if (value := record.value(label)) is not None]


def _scores(records: Sequence[TaskRecord], label: str) -> dict[str, Any]:
    values = _values(records, label)
    missing = [score.reason for record in records if isinstance(score := record.scores.get(label), NotScored)]
    reasons = Counter(short_paths(reason)[:_MAX_REASON] for reason in missing).most_common(_MAX_REASONS)
    return {
        "score": interval(values),
        "scored": len(values),
        "not_scored": len(records) - len(values),
        "reasons": dict(reasons),
    }


def _tokens(records: Iterable[TaskRecord]) -> dict[str, Any] | None:
    """Tokens of the policy, None where the backend does not count them."""
    turns = [turn for record in records for turn in record.trajectory.turns]
    prompt, completion = sum(turn.prompt_tokens for turn in turns), sum(turn.completion_tokens for turn in turns)
    return {"prompt": prompt, "completion": completion} if prompt or completion else None


def _judging(records: Iterable[TaskRecord], labels: Iterable[str]) -> dict[str, Any]:
    """What judging took, by evaluator; `cost` is None where no price is known."""
    found: dict[str, Any] = {}
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


def _seconds(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p95 = np.percentile(values, (50, 95))
    return {"mean": round(float(np.mean(values)), 3), "p50": round(float(p50), 3), "p95": round(float(p95), 3)}
