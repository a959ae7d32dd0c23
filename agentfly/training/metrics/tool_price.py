"""The price of learning in tool seconds: what the calls of a run took, and what was gained for them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentfly.training.metrics.chain_report import Interval

# verl adds up a metric named "total" over the updates of a step, and takes the mean of others
# (verl/trainer/ppo/v1/utils.py:MetricsAggregator).
SECONDS, DISCARDED, CALLS = "tools/total_seconds", "tools/total_discarded_seconds", "tools/total_calls"
_VALIDATED = ("val-core/", "/reward/mean@1")  # verl's name of a validation's reward, with the type of the tasks between


def spent_metrics(trained: Iterable[Interval], discarded: Iterable[Interval]) -> dict[str, float]:
    """Return the seconds and calls of tools in a step.

        tools/total_seconds              in the chains that are trained on
        tools/total_discarded_seconds    in chains that are not: of replaced groups, and of steps that are sampled again
        tools/total_calls                of both

    Args:
        trained, discarded: intervals of the chains; see `agentfly.training.metrics.chain_report.intervals_of`.
    """
    kept, lost = ([each for each in which if each.tool] for which in (trained, discarded))
    return {
        SECONDS: sum(each.end - each.start for each in kept),
        DISCARDED: sum(each.end - each.start for each in lost),
        CALLS: float(len(kept) + len(lost)),
    }


@dataclass(frozen=True)
class ToolPrice:
    """The price of a run.

    Attributes:
        seconds: of all calls between the first validation and the last.
        discarded: the part of it that was spent on chains that were not trained on.
        points: gained from the first validation to the last: 100 times the difference of the mean rewards.
    """

    seconds: float
    discarded: float
    points: float

    def in_words(self) -> str:
        """Return one line for the console."""
        lost = f", {self.discarded:,.0f} s of it discarded" if self.discarded else ""
        price = f": {self.seconds / self.points:,.1f} s a point" if self.points > 0 else ""
        return f"tools ran {self.seconds:,.0f} s{lost}; held-out reward {self.points:+.1f} points{price}"


def tool_price(metrics: Sequence[Mapping[str, float]]) -> ToolPrice | None:
    """Return the price of a run; None where it has not been validated twice.

    Args:
        metrics: of each step in order, a validation before the first one included.
    """
    validated = [(place, reward) for place, each in enumerate(metrics) if (reward := _validation(each)) is not None]
    if len(validated) < 2:
        return None
    (first, before), (last, after) = validated[0], validated[-1]
    # A step's line has the validation after it.
    spent = metrics[first + 1 : last + 1]
    discarded = sum(each.get(DISCARDED, 0.0) for each in spent)
    return ToolPrice(sum(each.get(SECONDS, 0.0) for each in spent) + discarded, discarded, 100.0 * (after - before))


def _validation(metrics: Mapping[str, float]) -> float | None:
    """Return the mean reward over the types of tasks; None where there was no validation."""
    begin, end = _VALIDATED
    found = [value for name, value in metrics.items() if name.startswith(begin) and name.endswith(end)]
    return statistics.fmean(found) if found else None
