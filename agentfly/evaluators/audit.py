"""A second judge that nobody is rewarded by: does what the reward says hold in other eyes?

A policy that learns to please its judge raises the reward and not the picture. The audit scores a sample of each batch
with another evaluator, and sounds an alarm when the reward rises while the audit falls.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from agentfly.errors import ConfigError
from agentfly.evaluators.base import EditSample, Evaluator
from agentfly.evaluators.batching import GuardedEvaluator, GuardSettings, NotScored

logger = logging.getLogger(__name__)


class AuditSettings(BaseModel):
    """How much is audited, and what is alarming.

    Attributes:
        share: of each batch that is audited.
        least: samples of each batch at least.
        window: steps that are looked back on; the first half is compared with the second.
        rise: by how much the mean reward (0 to 1) must have risen for an alarm.
        fall: by how much the mean audit (0 to 1) must have fallen.
        seed: of the choice of samples.
        guard: bounds of the second evaluator.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(0.1, gt=0, le=1)
    least: int = Field(4, ge=1)
    window: int = Field(20, ge=4)
    rise: float = Field(0.02, ge=0)
    fall: float = Field(0.02, ge=0)
    seed: int = 0
    guard: GuardSettings = GuardSettings()


@dataclass(frozen=True)
class AuditReport:
    """What the audit of one batch found.

    Attributes:
        metrics: to log; without the keys that could not be computed.
        alarm: why to look at the run, None for nothing.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    alarm: str | None = None


class JudgeAudit:
    """Audits batches of scored samples, and remembers the last steps.

    Args:
        evaluator: the second one.
        settings: see `AuditSettings`.
        reward_evaluator: the one that gives the reward, to refuse an audit by itself.

    Raises:
        ConfigError: both evaluators are the same object.
    """

    def __init__(
        self, evaluator: Evaluator, settings: AuditSettings | None = None, *, reward_evaluator: Evaluator | None = None
    ) -> None:
        if evaluator is reward_evaluator:
            raise ConfigError("the audit needs an evaluator that the reward does not use: give another one")
        self.settings = settings or AuditSettings()
        self._guarded = GuardedEvaluator(evaluator, self.settings.guard)
        self._past: deque[tuple[float, float]] = deque(maxlen=self.settings.window)

    def choose(self, size: int, step: int) -> list[int]:
        """Indices of a batch that are audited at a step; the same ones whenever it is asked."""
        count = min(size, max(self.settings.least, round(self.settings.share * size)))
        return sorted(random.Random(f"{self.settings.seed}/{step}").sample(range(size), count))

    async def observe(self, samples: Sequence[EditSample], scores: Sequence[float], step: int) -> AuditReport:
        """Audit a batch; the mean over all of it stands for the reward.

        Args:
            samples: of the batch.
            scores: 0 to 1, what the reward's evaluator gave each (the "edit" part of the reward).
            step: of training.
        """
        if len(samples) != len(scores):
            raise ConfigError(f"{len(scores)} scores for {len(samples)} samples: give one each")
        chosen = self.choose(len(samples), step)
        outcomes = await self._guarded.evaluate_many(samples[index] for index in chosen)
        pairs = [
            (scores[index], outcome.value / 100.0)
            for index, outcome in zip(chosen, outcomes, strict=True)
            if not isinstance(outcome, NotScored)
        ]
        metrics = {"audit/samples": float(len(chosen)), "audit/not_scored": float(len(chosen) - len(pairs))}
        if not pairs:
            return AuditReport(metrics)
        metrics |= _compared(pairs)
        self._past.append((float(np.mean(scores)), metrics["audit/mean"]))
        alarm = self._alarm(metrics)
        metrics["audit/alarm"] = float(alarm is not None)
        if alarm is not None:
            logger.warning("step %d: %s", step, alarm)
        return AuditReport(metrics, alarm)

    def _alarm(self, metrics: dict[str, float]) -> str | None:
        """Compare the first half of the window with the second; the metrics get both differences."""
        if len(self._past) < self.settings.window:
            return None
        past = np.array(self._past)
        half = len(past) // 2
        reward, audit = past[-half:].mean(axis=0) - past[:half].mean(axis=0)
        metrics |= {"audit/reward_trend": float(reward), "audit/audit_trend": float(audit)}
        if reward < self.settings.rise or audit > -self.settings.fall:
            return None
        return (
            f"over {len(past)} steps the reward rose by {reward:.3f} while the audit fell by {-audit:.3f}: the policy "
            "may be fooling its judge; look at the pictures, and change the reward before training on"
        )


def _compared(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Mean of the audit, its gap to the reward on the same samples, and their correlations where there are any."""
    reward, audit = np.array(pairs).T
    found = {"audit/mean": float(audit.mean()), "audit/gap": float((reward - audit).mean())}
    # Of fewer pairs, or of equal numbers, a correlation is noise or nothing.
    if len(pairs) >= 3 and np.ptp(reward) > 0 and np.ptp(audit) > 0:
        found["audit/correlation"] = float(np.corrcoef(reward, audit)[0, 1])
        found["audit/rank_correlation"] = float(np.corrcoef(_ranks(reward), _ranks(audit))[0, 1])
    return found


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share their mean rank (Spearman)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return (last - (counts - 1) / 2)[inverse]
