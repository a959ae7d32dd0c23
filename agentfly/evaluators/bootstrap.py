"""Means with confidence intervals, for tables and curves of scores.

Intervals are percentile bootstraps over tasks (Efron and Tibshirani, 1993), 2000 resamples, seeded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SUCCESS = 80.0  # the lowest score that counts as a success


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
