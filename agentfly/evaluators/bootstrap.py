"""Means, shares and rank correlations with confidence intervals, for tables and curves of scores.

Intervals of means are percentile bootstraps over tasks (Efron and Tibshirani, 1993), 2000 resamples, seeded. Those of
shares are Wilson's (1927), those of rank correlations Bonett and Wright's (2000).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

SUCCESS = 80.0  # the lowest score that counts as a success
TIE = 0.05  # points of 100 below which two scores are equal, as in `agentfly compare`
_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Return the numbers rounded for JSON."""
        return {"mean": round(self.mean, 3), "low": round(self.low, 3), "high": round(self.high, 3)}


def estimate(values: Iterable[float], *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Return the mean and its 95 % bootstrap interval; NaN where there are no values.

    Args:
        values: one for each task, in any order.
        resamples: number of bootstrap samples.
        seed: of the resampling.
    """
    # Sorted, so that the interval does not depend on the order in which tasks ended.
    array = np.sort(np.asarray(list(values), np.float64))
    if array.size == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    draws = np.random.default_rng(seed).integers(0, array.size, (resamples, array.size))
    low, high = np.percentile(array[draws].mean(axis=1), (2.5, 97.5))
    return Estimate(float(array.mean()), float(low), float(high))


def preference_credit(preferred: float, difference: float) -> float:
    """Return 1 where two scores order a pair as it is known to be, 0 where they reverse it, 0.5 where they are equal.

    Args:
        preferred: 1 if the first of the pair is better, 0 if the second is.
        difference: score of the first less that of the second, in points of 100.
    """
    if abs(difference) < TIE:
        return 0.5
    return float((difference > 0) == (preferred == 1.0))


def wilson(successes: float, number: float) -> Estimate:
    """Return a share with its 95 % Wilson interval.

    Args:
        successes: at most `number`; half ones are allowed.
        number: at least 1.
    """
    share, spread = successes / number, _Z**2 / number
    centre = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / number + spread / (4 * number)) / (1 + spread)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def spearman(one: Sequence[float], other: Sequence[float]) -> Estimate | None:
    """Return the rank correlation of two lists with its 95 % interval; None where one of them never varies.

    Args:
        one, other: of equal length, at least 4.
    """
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    value = float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])
    inner = min(max(value, -0.999999), 0.999999)
    half = _Z * math.sqrt((1 + inner**2 / 2) / (len(one) - 3))
    return Estimate(value, math.tanh(math.atanh(inner) - half), math.tanh(math.atanh(inner) + half))


def _ranks(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return ranks; equal values share the mean of theirs."""
    _, places, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: np.ndarray[tuple[int], np.dtype[np.float64]] = (ends - (counts - 1) / 2)[places]
    return means
