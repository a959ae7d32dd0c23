"""A second evaluator that is never part of the reward, to check whether the reward can be trusted.

A policy that learns to please its judge raises the reward without better images. The audit scores a sample of each
batch with another evaluator, and raises an alarm when the reward rises while the audit falls.

Rewards that compare the chains of a prompt with each other have the same mean at all times. A policy that learns from
them pleases its judge ever better, and only the audit shows whether the images do, too: there the alarm is for a
falling audit alone.
"""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from agentfly.evaluators.guarded import GuardSettings
from agentfly.settings import Settings

logger = logging.getLogger(__name__)


class AuditSettings(Settings):
    """The share of chains that is audited, and the conditions of the alarm.

    Attributes:
        share: part of the chains that is audited, 0 to 1.
        window: number of last steps that are compared, their first half with their second.
        rise: least rise of the mean reward (0 to 1) for an alarm; not for rewards that are relative to their group.
        fall: least fall of the mean audit (0 to 1) for an alarm.
        seed: of the choice of chains.
        guard: bounds of the second evaluator.
    """

    share: float = Field(0.1, gt=0, le=1)
    window: int = Field(20, ge=4)
    rise: float = Field(0.02, ge=0)
    fall: float = Field(0.02, ge=0)
    seed: int = 0
    guard: GuardSettings = GuardSettings()

    def chooses(self, chain: str, step: int) -> bool:
        """Return True if a chain is audited; the answer is the same in every process and at any time.

        Args:
            chain: id of its trajectory.
            step: of training.
        """
        return random.Random(f"{self.seed}/{step}/{chain}").random() < self.share


@dataclass(frozen=True)
class AuditReport:
    """The audit of one step.

    Attributes:
        metrics: to log; without the keys that could not be computed.
        alarm: reason to look at the run, None if there is none.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    alarm: str | None = None


class JudgeAudit:
    """Compares the rewards of each step with the scores of a second evaluator, and remembers the last steps.

    Args:
        settings: see `AuditSettings`.
        relative: rewards are relative to the chains of their prompt.
    """

    def __init__(self, settings: AuditSettings | None = None, *, relative: bool = False) -> None:
        self.settings = settings or AuditSettings()
        self._relative = relative
        self._past: deque[tuple[float, float]] = deque(maxlen=self.settings.window)

    def compare(self, pairs: Sequence[tuple[float, float | None]], step: int) -> AuditReport:
        """Return the audit of a step; the mean over all its chains, `audit/reward`, stands for the reward.

        Args:
            pairs: for each chain, the score of the reward's evaluator (0 to 1, the "edit" part of the reward), and the
                audit's score (0 to 100): None where it was not audited, NaN where it could not be.
            step: of training.
        """
        audited = [(score, audit / 100.0) for score, audit in pairs if audit is not None]
        scored = [(score, audit) for score, audit in audited if not math.isnan(audit)]
        metrics = {"audit/samples": float(len(audited)), "audit/not_scored": float(len(audited) - len(scored))}
        if not scored:
            return AuditReport(metrics)
        reward, second = np.array(scored).T
        metrics |= {
            "audit/reward": float(np.mean([score for score, _ in pairs])),
            "audit/mean": float(second.mean()),
        }
        if not self._relative:
            metrics["audit/gap"] = float((reward - second).mean())
        # With fewer pairs the correlation is noise, and with equal numbers it is undefined.
        if len(scored) >= 3 and np.ptp(reward) > 0 and np.ptp(second) > 0:
            metrics["audit/correlation"] = float(np.corrcoef(reward, second)[0, 1])
            metrics["audit/rank_correlation"] = float(np.corrcoef(_ranks(reward), _ranks(second))[0, 1])
        self.remember(metrics)
        alarm = self._alarm(metrics)
        metrics["audit/alarm"] = float(alarm is not None)
        if alarm is not None:
            logger.warning("step %d: %s", step, alarm)
        return AuditReport(metrics, alarm)

    def remember(self, metrics: Mapping[str, float]) -> None:
        """Count a step by the metrics that `compare` gave; a resumed run begins with the steps before it."""
        if {"audit/reward", "audit/mean"} <= metrics.keys():
            self._past.append((metrics["audit/reward"], metrics["audit/mean"]))

    def _alarm(self, metrics: dict[str, float]) -> str | None:
        """Return the alarm of a full window, if any, and add the differences of its halves to the metrics."""
        if len(self._past) < self.settings.window:
            return None
        past = np.array(self._past)
        half = len(past) // 2
        reward, audit = past[-half:].mean(axis=0) - past[:half].mean(axis=0)
        metrics |= {"audit/reward_trend": float(reward), "audit/audit_trend": float(audit)}
        if audit > -self.settings.fall or (reward < self.settings.rise and not self._relative):
            return None
        if self._relative:
            return (
                f"over {len(past)} steps the audit fell by {-audit:.3f} while the policy learned from its judge's "
                "rankings: it may be fooling its judge; look at the images, and change the reward before training on"
            )
        return (
            f"over {len(past)} steps the reward rose by {reward:.3f} while the audit fell by {-audit:.3f}: the policy "
            "may be fooling its judge; look at the images, and change the reward before training on"
        )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 0; equal values share their mean rank (Spearman)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return (last - (counts - 1) / 2)[inverse]
