"""Health metrics of a run, which show when a policy stops learning the task and exploits a weakness, and their limits.

Tool use that collapses, edits that change nothing, calls repeated without end, replies that cannot be parsed, answers
without an edit, masks that cover everything: each has its metric, and a breach of its limit warns or stops the run.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from agentfly.errors import ConfigError, TrainingError, unknown_name
from agentfly.settings import Settings

logger = logging.getLogger(__name__)

METRICS: tuple[str, ...] = (
    "tool_calls",
    "no_op_edits",
    "repeat_loops",
    "parse_failures",
    "answer_without_edit",
    "mask_coverage",
)


class CallRecord(Protocol):
    """What is read of one tool call; `agentfly.agents.ToolRecord` is one."""

    @property
    def name(self) -> str:
        """Name of the tool."""
        ...

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What it was given."""
        ...

    @property
    def error(self) -> str | None:
        """Why it failed."""
        ...

    @property
    def malformed(self) -> bool:
        """Whether it could not be parsed."""
        ...


@dataclass(frozen=True)
class ChainFacts:
    """What a chain did, as numbers.

    Attributes:
        calls: tool calls.
        malformed: of them, those that could not be parsed.
        edits: edits that were carried out.
        no_op_edits: of them, those that changed nothing.
        longest_repeat: most calls with the very same name and arguments.
        answered: whether it ended with an answer.
        coverage: share of the image under each mask that was used.
    """

    calls: int
    malformed: int
    edits: int
    no_op_edits: int
    longest_repeat: int
    answered: bool
    coverage: tuple[float, ...] = ()


def chain_facts(
    records: Sequence[CallRecord], *, answered: bool, edits: int, no_op_edits: int, coverage: Sequence[float] = ()
) -> ChainFacts:
    """Facts of a chain from its records.

    Args:
        records: its tool calls.
        answered: whether it ended with an answer.
        edits: edits that were carried out, those that changed nothing included.
        no_op_edits: those that changed nothing.
        coverage: share of the image under each mask that was used, 0 to 1.
    """
    # A call that failed and is tried again as it was is a loop, too.
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
    )


class Limit(Settings):
    """Bounds of one metric.

    Attributes:
        low, high: the metric must not lie below or above.
        action: "warn" or "stop".
        patience: steps in a row that a breach must last.
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
        """How a value lies outside, in words; None where it does not."""
        if self.low is not None and value < self.low:
            return f"below {self.low:g}"
        return f"above {self.high:g}" if self.high is not None and value > self.high else None


_PREFIX = "health/"  # of the metrics in a log
_ADVICE = {
    "tool_calls": "below: the tool cost may be too high, or calls may fail; above: the policy may run in circles",
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
        repeat_length: equal calls in one chain from which on it counts as a loop.
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
    """What one step showed.

    Attributes:
        metrics: `health/NAME`; without those that nothing in the batch tells.
        warnings: breaches, in words.
        stop: why the run must end, None when it need not.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    stop: str | None = None

    def raise_if_stopped(self) -> None:
        """End the run where a breach says so.

        Raises:
            TrainingError: with the reason.
        """
        if self.stop is not None:
            raise TrainingError(self.stop)


class HealthMonitor:
    """Watches batch after batch.

    tool_calls           mean calls a chain
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
        """Judge one batch."""
        metrics = self._metrics(chains)
        warnings, stop = [], None
        for name, limit in self.settings.limits.items():
            how = self._count(name, limit, metrics)
            if how is None or self._lasting[name] < limit.patience:
                continue
            text = f"step {step}: {name} is {metrics[name]:.3g}, {how} for {self._lasting[name]} steps; {_ADVICE[name]}"
            warnings.append(text)
            logger.warning("%s", text)
            stop = stop or (f"the health monitor stopped the run at {text}" if limit.action == "stop" else None)
        return HealthReport({f"{_PREFIX}{name}": value for name, value in metrics.items()}, tuple(warnings), stop)

    def remember(self, metrics: Mapping[str, float]) -> None:
        """Count a step by what `observe` said of it; a resumed run begins with those of the run before."""
        known = {name.removeprefix(_PREFIX): value for name, value in metrics.items() if name.startswith(_PREFIX)}
        for name, limit in self.settings.limits.items():
            self._count(name, limit, known)

    def _count(self, name: str, limit: Limit, metrics: Mapping[str, float]) -> str | None:
        """Count the steps in a row that a breach lasts; what a batch says nothing about neither lasts nor ends."""
        if name not in metrics:
            return None
        how = limit.breach(metrics[name])
        self._lasting[name] = self._lasting[name] + 1 if how else 0
        return how

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
        }
        metrics = {name: part / whole for name, (part, whole) in shares.items() if whole}
        coverage = [share for chain in chains for share in chain.coverage]
        return {**metrics, "mask_coverage": float(np.mean(coverage))} if coverage else metrics


def health_settings(limits: Mapping[str, Mapping[str, Any] | None]) -> HealthSettings:
    """Settings from plain configuration; what is not named keeps its default, and None takes a limit away.

    Raises:
        ConfigError: an unknown metric or field.
    """
    merged: dict[str, Any] = dict(HealthSettings().limits)
    for name, limit in limits.items():
        if name not in METRICS:
            raise ConfigError(unknown_name("health metric", name, METRICS))
        merged[name] = limit
    try:
        return HealthSettings(limits={name: limit for name, limit in merged.items() if limit is not None})
    except ValueError as fault:
        raise ConfigError(f"health limits: {fault}") from fault
