"""Health metrics of a run and their limits: they show a policy that exploits a weakness instead of learning the task.

Tool use that collapses, edits that change nothing, calls repeated without end, replies that cannot be parsed, answers
without an edit, masks that cover everything: each has a metric, and a breach of its limit warns or stops the run.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from agentfly.agents import ToolRecord
from agentfly.errors import ConfigError, TrainingError, unknown_name
from agentfly.settings import Settings

logger = logging.getLogger(__name__)

METRICS: tuple[str, ...] = (
    "tool_calls",
    "look_calls",
    "no_op_edits",
    "repeat_loops",
    "parse_failures",
    "answer_without_edit",
    "mask_coverage",
)


@dataclass(frozen=True)
class ChainFacts:
    """The numbers of a chain from which the health metrics are made.

    Attributes:
        calls: tool calls.
        malformed: calls that could not be parsed.
        edits: edits that were carried out.
        no_op_edits: edits among them that changed nothing.
        longest_repeat: most calls with the very same name and arguments.
        answered: True if it ended with an answer.
        coverage: share of the image under each mask that was used, 0 to 1.
        looks: calls among them of tools that only look.
    """

    calls: int
    malformed: int
    edits: int
    no_op_edits: int
    longest_repeat: int
    answered: bool
    coverage: tuple[float, ...] = ()
    looks: int = 0


def chain_facts(
    records: Sequence[ToolRecord], *, answered: bool, edits: int, no_op_edits: int, coverage: Sequence[float] = ()
) -> ChainFacts:
    """Return the facts of a chain from its records.

    Args:
        records: its tool calls.
        answered: True if it ended with an answer.
        edits: edits that were carried out, those that changed nothing included.
        no_op_edits: edits that changed nothing.
        coverage: share of the image under each mask that was used, 0 to 1.
    """
    # Trying a failed call again unchanged is a loop, too.
    same = Counter(
        (record.name, json.dumps(dict(record.arguments), sort_keys=True, default=str))
        for record in records
        if not record.malformed
    )
    return ChainFacts(
        calls=len(records),
        malformed=sum(record.malformed for record in records),
        edits=edits,
        no_op_edits=no_op_edits,
        longest_repeat=max(same.values(), default=0),
        answered=answered,
        coverage=tuple(coverage),
        looks=sum(record.looks for record in records),
    )


class Limit(Settings):
    """Bounds of one metric.

    Attributes:
        low, high: bounds of the metric; None for none.
        action: "warn" or "stop".
        patience: steps in a row that a breach must last before the action.
    """

    low: float | None = None
    high: float | None = None
    action: Literal["warn", "stop"] = "warn"
    patience: int = Field(3, ge=1)

    @model_validator(mode="after")
    def _bounds(self) -> Limit:
        if self.low is None and self.high is None:
            raise ValueError("a limit needs low, high, or both")
        return self

    def breach(self, value: float) -> str | None:
        """Return in words on which side a value lies outside; None if it lies inside."""
        if self.low is not None and value < self.low:
            return f"below {self.low:g}"
        return f"above {self.high:g}" if self.high is not None and value > self.high else None


_PREFIX = "health/"  # of the metrics in the log
_ADVICE = {
    "tool_calls": "below: the tool cost may be too high, or calls may fail; above: the policy may run in circles",
    "look_calls": "below: the policy edits blindly; above: it looks instead of editing, so look calls may need a cost",
    "no_op_edits": "edits that change nothing are paid for: look at thresholds and at what the policy asks for",
    "repeat_loops": "chains repeat the very same call: look at the observations that they answer with it",
    "parse_failures": "the policy loses the form of tool calls: raise the format term, or lower the learning rate",
    "answer_without_edit": "the policy answers without editing: the reward may pay for the unchanged image",
    "mask_coverage": "masks cover nearly everything: preservation may weigh too little in the reward",
}


class HealthSettings(Settings):
    """Limits by metric; see `METRICS` and `HealthMonitor`.

    Attributes:
        limits: bounds of a metric.
        repeat_length: number of equal calls in one chain that counts as a loop.
    """

    limits: dict[str, Limit] = Field(
        default_factory=lambda: {
            "tool_calls": Limit(low=0.5),
            "no_op_edits": Limit(high=0.5),
            "repeat_loops": Limit(high=0.2),
            "parse_failures": Limit(high=0.3),
            "answer_without_edit": Limit(high=0.5),
            "mask_coverage": Limit(high=0.8),
        }
    )
    repeat_length: int = Field(3, ge=2)

    @model_validator(mode="after")
    def _known(self) -> HealthSettings:
        for name in self.limits:
            if name not in METRICS:
                raise ValueError(unknown_name("health metric", name, METRICS))
        return self


@dataclass(frozen=True)
class HealthReport:
    """The health of one step.

    Attributes:
        metrics: `health/NAME`; without those that the batch says nothing about.
        warnings: breaches, in words.
        stop: reason why the run must end, None if it need not.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    stop: str | None = None

    def raise_if_stopped(self) -> None:
        """Raise `TrainingError` with the reason if the run must end."""
        if self.stop is not None:
            raise TrainingError(self.stop)


class HealthMonitor:
    """Computes the health metrics of one step after another, and checks their limits.

    tool_calls           mean calls a chain
    look_calls           mean calls a chain of tools that only look; they are among the tool calls
    no_op_edits          edits that changed nothing / edits
    repeat_loops         share of chains with `repeat_length` equal calls or more
    parse_failures       calls that could not be parsed / calls
    answer_without_edit  share of answered chains that no edit has changed anything for
    mask_coverage        mean share of the image under the masks used
    """

    def __init__(self, settings: HealthSettings | None = None) -> None:
        self.settings = settings or HealthSettings()
        self._lasting: Counter[str] = Counter()

    def observe(self, chains: Sequence[ChainFacts], step: int) -> HealthReport:
        """Return the health of one step.

        Args:
            chains: facts of its chains.
            step: its number, for the messages.
        """
        metrics = self._metrics(chains)
        warnings, stop = [], None
        for name, limit in self.settings.limits.items():
            breach = self._count(name, limit, metrics)
            if breach is None or self._lasting[name] < limit.patience:
                continue
            lasting = self._lasting[name]
            text = f"step {step}: {name} is {metrics[name]:.3g}, {breach} for {lasting} steps; {_ADVICE[name]}"
            warnings.append(text)
            logger.warning("%s", text)
            stop = stop or (f"the health monitor stopped the run at {text}" if limit.action == "stop" else None)
        return HealthReport({f"{_PREFIX}{name}": value for name, value in metrics.items()}, tuple(warnings), stop)

    def remember(self, metrics: Mapping[str, float]) -> None:
        """Count a step by the metrics that `observe` gave; a resumed run begins with the steps before it."""
        known = {name.removeprefix(_PREFIX): value for name, value in metrics.items() if name.startswith(_PREFIX)}
        for name, limit in self.settings.limits.items():
            self._count(name, limit, known)

    def _count(self, name: str, limit: Limit, metrics: Mapping[str, float]) -> str | None:
        """Count the steps in a row that a breach lasts; a step without the metric neither continues nor ends it."""
        if name not in metrics:
            return None
        breach = limit.breach(metrics[name])
        self._lasting[name] = self._lasting[name] + 1 if breach else 0
        return breach

    def _metrics(self, chains: Sequence[ChainFacts]) -> dict[str, float]:
        shares = {
            "no_op_edits": (sum(chain.no_op_edits for chain in chains), sum(chain.edits for chain in chains)),
            "repeat_loops": (
                sum(chain.longest_repeat >= self.settings.repeat_length for chain in chains),
                len(chains),
            ),
            "parse_failures": (sum(chain.malformed for chain in chains), sum(chain.calls for chain in chains)),
            "answer_without_edit": (
                sum(chain.answered and chain.edits == chain.no_op_edits for chain in chains),
                sum(chain.answered for chain in chains),
            ),
            "tool_calls": (sum(chain.calls for chain in chains), len(chains)),
            "look_calls": (sum(chain.looks for chain in chains), len(chains)),
        }
        metrics = {name: part / whole for name, (part, whole) in shares.items() if whole}
        coverage = [share for chain in chains for share in chain.coverage]
        return {**metrics, "mask_coverage": float(np.mean(coverage))} if coverage else metrics


def health_settings(limits: Mapping[str, Mapping[str, object] | None]) -> HealthSettings:
    """Return settings from plain configuration; a metric that is not named keeps its default limit.

    Args:
        limits: fields of `Limit` by metric; None takes the limit away.

    Raises:
        ConfigError: an unknown metric or field.
    """
    merged: dict[str, Limit | Mapping[str, object] | None] = dict(HealthSettings().limits)
    for name, limit in limits.items():
        if name not in METRICS:
            raise ConfigError(unknown_name("health metric", name, METRICS))
        merged[name] = limit
    try:
        return HealthSettings(**{"limits": {name: limit for name, limit in merged.items() if limit is not None}})
    except ValueError as fault:
        raise ConfigError(f"health limits: {fault}") from fault
