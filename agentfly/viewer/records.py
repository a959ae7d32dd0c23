"""The figures of one training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepRecord:
    """One step of training: means over the chains that were sampled in it.

    Attributes:
        step: number of the step, from 1.
        seconds: since training began, at the end of the step.
        reward: of the trainer, about 0 to 1.
        score: of the evaluator, 0 to 100.
        success: share of chains that count as done, 0 to 1.
        tool_calls: calls per chain.
        extra: further figures of the step, by name.
    """

    step: int
    seconds: float
    reward: float
    score: float
    success: float
    tool_calls: float
    extra: Mapping[str, float] = field(default_factory=dict)
