"""The figures of a benchmark from the scored attempts of a run, with intervals, and what they were taken with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np

from agentfly.evaluation.protocols.base import JudgedProtocol, Measure, Row
from agentfly.evaluation.protocols.registry import find_split
from agentfly.evaluation.protocols.spec import BoundProtocol
from agentfly.evaluation.task_record import TaskRecord
from agentfly.evaluators import Score
from agentfly.redaction import public_url

_RESAMPLES = 2000


class Figure(TypedDict):
    """One figure on the authors' scale; `group` is a type of task, None for all."""

    name: str
    group: str | None
    mean: float
    low: float
    high: float
    tasks: int


class JudgeFacts(TypedDict):
    """The judge of a result: the model that was asked and how, the names that the server gave those that answered, the
    days (UTC), and the authors' judge."""

    model: str
    base_url: str | None
    temperature: float | None
    max_tokens: int | None
    answered_by: list[str]
    dates: list[str]
    authors: str


class ProtocolSummary(TypedDict):
    """The figures of a protocol, and what they were taken with.

    `whole` is None where the benchmark's makers name no number of tasks.
    """

    protocol: str
    title: str
    split: str
    source: str | None
    prompts: NotRequired[str]
    judge: NotRequired[JudgeFacts]
    models: NotRequired[dict[str, object]]
    tasks: int
    scored: int
    whole: bool | None
    decimals: int
    note: str
    figures: list[Figure]


def summarise_protocol(bound: BoundProtocol, records: Sequence[TaskRecord]) -> ProtocolSummary:
    """Return the figures of a run's records.

    Args:
        bound: the protocol of the run; its evaluator has the protocol's name.
        records: of the run.
    """
    protocol, identity, label = bound.protocol, bound.identity, bound.protocol.name
    rows = [_row(record, score) for record in records if isinstance(score := _scored(record, label), Score)]
    split = str(identity["split"])
    scored = len({row.task for row in rows})
    sizes = find_split(protocol, split)[1].sizes
    source = f"https://github.com/{protocol.repository}/tree/{protocol.commit}" if protocol.repository else None
    found: ProtocolSummary = {
        "protocol": protocol.name,
        "title": protocol.title,
        "split": split,
        "source": source,
        "tasks": len({record.task_id for record in records}),
        "scored": scored,
        "whole": scored in sizes if sizes else None,
        "decimals": protocol.decimals,
        "note": protocol.note,
        "figures": [figure(measure) for measure in protocol.measures(rows) if any(measure.strata.values())],
    }
    usages = [record.judges[label] for record in records if label in record.judges]
    if isinstance(protocol, JudgedProtocol):
        found["prompts"] = f"{identity['prompts_from']} ({identity['prompts']})"
        asked = bound.judge()
        found["judge"] = {
            "model": asked.model,
            "base_url": None if asked.base_url is None else public_url(asked.base_url),
            "temperature": asked.temperature,
            "max_tokens": asked.max_tokens,
            "answered_by": sorted({model for usage in usages for model in usage.models}),
            "dates": sorted({date for usage in usages for date in usage.dates}),
            "authors": str(protocol.judge["model"]),
        }
    else:
        found["models"] = {name: value for name, value in identity.items() if name not in ("protocol", "split")}
    return found


def figure(measure: Measure) -> Figure:
    """Return a figure with its 95 % percentile bootstrap over tasks, within each stratum (seeded).

    Args:
        measure: with at least one value.
    """
    rng = np.random.default_rng(0)
    means: list[float] = []
    resampled = np.zeros(_RESAMPLES)
    tasks: set[str] = set()
    for attempts in filter(None, measure.strata.values()):
        by_task: dict[str, list[float]] = {}
        for task, value in attempts:
            by_task.setdefault(task, []).append(value)
        # Sorted, so that the interval does not depend on the order in which tasks ended.
        values = np.sort(np.asarray([np.mean(found) for found in by_task.values()], np.float64))
        means.append(float(values.mean()))
        resampled += values[rng.integers(0, values.size, (_RESAMPLES, values.size))].mean(axis=1)
        tasks |= by_task.keys()
    low, high = np.percentile(resampled / len(means), (2.5, 97.5))
    mean = float(np.mean(means))
    rounded = {name: round(float(value), 6) for name, value in (("mean", mean), ("low", low), ("high", high))}
    return {
        "name": measure.name,
        "group": measure.group,
        "mean": rounded["mean"],
        "low": rounded["low"],
        "high": rounded["high"],
        "tasks": len(tasks),
    }


def _scored(record: TaskRecord, label: str) -> object:
    return None if record.failed else record.scores.get(label)


def _row(record: TaskRecord, score: Score) -> Row:
    metadata = record.task.metadata
    group = str(metadata.get("original_task_type") or metadata.get("category") or record.task.task_type)
    return Row(record.task_id, group, score.aspects, metadata)
