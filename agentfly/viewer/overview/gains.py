"""Did it learn: rewards and scores at the beginning and at the end of a run, and their difference with an interval.

Prompts, not chains, are the samples: chains of one prompt are alike. Validations compare the same tasks in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from agentfly.viewer.index import Index

# Standard errors to either side of a mean, in which it lies with 95 %: Student's t for 1 to 10 degrees of freedom.
_FEW = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_MANY = 1.96
Verdict = Literal["rose", "fell", "did not clearly change"]


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval, and the number of samples."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, count: int, total: float, squares: float) -> Self | None:
        """Return the mean of samples by their number, sum and sum of squares; None of no samples."""
        if not count:
            return None
        mean = total / count
        variance = max(0.0, squares / count - mean * mean) * count / max(1, count - 1)
        reach = _errors(count) * math.sqrt(variance / count) if count > 1 else math.inf
        return cls(mean, mean - reach, mean + reach, count)

    @property
    def bounded(self) -> bool:
        """The interval is known: of one sample there is none."""
        return math.isfinite(self.low)

    @property
    def verdict(self) -> Verdict:
        """What a difference says: nothing is claimed where the interval holds zero."""
        return "rose" if self.low > 0 else "fell" if self.high < 0 else "did not clearly change"

    def minus(self, other: Mean) -> Mean:
        """Return the difference of two means of different samples."""
        mean = self.mean - other.mean
        reach = math.hypot(self.high - self.mean, other.high - other.mean)
        return Mean(mean, mean - reach, mean + reach, min(self.count, other.count))


@dataclass(frozen=True)
class Gain:
    """A value before and after, and the difference.

    Attributes:
        what: "reward", "held-out score", ….
        before, after, gain: with intervals.
        first, last: where they come from: "steps 1 to 4", "warm start".
        place: words before them in a sentence.
    """

    what: str
    before: Mean
    after: Mean
    gain: Mean
    first: str
    last: str
    place: str = "at"


def _errors(count: int) -> float:
    """Return how many standard errors an interval reaches: more of few samples, whose spread is hardly known."""
    free = count - 1
    # The first terms of the expansion of Student's t in 1 / free; from 11 on it is right to 0.003.
    return _FEW[free - 1] if free <= len(_FEW) else _MANY + 2.372 / free + 2.823 / free**2


def window(steps: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the first and the last steps to compare: a quarter of the run each, at most 10; None of one step."""
    if len(steps) < 2:
        return None
    size = min(10, max(1, len(steps) // 4))
    return (steps[0], steps[size - 1]), (steps[-size], steps[-1])


_BY_PROMPT = """SELECT task_type, COUNT(*) AS n, TOTAL(v) AS total, TOTAL(v * v) AS squares FROM (
    SELECT task_type, AVG({value}) AS v FROM chains
    WHERE step BETWEEN ? AND ? AND validate IS NOT 1 AND {column} IS NOT NULL GROUP BY group_id, task_type)
GROUP BY task_type"""


def by_type(index: Index, steps: tuple[int, int], column: Literal["reward", "score"]) -> dict[str | None, Mean]:
    """Return means over the prompts of some training steps by task type, and of all as None.

    Args:
        index: of the run.
        steps: the first and the last.
        column: "reward", or "score" (0 to 100).
    """
    rows = index.query(_BY_PROMPT.format(value=column, column=column), *steps)
    return _means((row["task_type"], row["n"], row["total"], row["squares"]) for row in rows)


def by_step(index: Index, *, validate: bool, column: Literal["reward", "score"]) -> dict[int, Mean]:
    """Return the mean over the prompts of each step, in order.

    Args:
        index: of the run.
        validate: of the validations, else of the trained chains.
        column: see `by_type`.
    """
    rows = index.query(
        f"""SELECT step, COUNT(*) AS n, TOTAL(v) AS total, TOTAL(v * v) AS squares FROM (
            SELECT step, AVG({column}) AS v FROM chains
            WHERE step IS NOT NULL AND {"" if validate else "NOT "}COALESCE(validate, 0) AND {column} IS NOT NULL
            GROUP BY step, group_id)
        GROUP BY step ORDER BY step""",
    )
    found = ((row["step"], Mean.of(row["n"], row["total"], row["squares"])) for row in rows)
    return {step: mean for step, mean in found if mean is not None}


def reward_gains(index: Index, steps: Sequence[int]) -> dict[str | None, Gain]:
    """Return the gain in reward from the first steps to the last by task type, and of all as None."""
    ends = window(steps)
    if ends is None:
        return {}
    before, after = (by_type(index, end, "reward") for end in ends)
    first, last = map(steps_in_words, ends)
    return {
        name: Gain("reward", before[name], after[name], after[name].minus(before[name]), first, last)
        for name in after
        if name in before
    }


def paired(
    index: Index, before: tuple[str, object], after: tuple[str, object]
) -> dict[str | None, tuple[Mean, Mean, Mean]]:
    """Return scores before, after and their difference on the same tasks, by task type, and of all as None.

    A chain without a score counts as 0, as it does in the report of a quickstart.

    Args:
        index: of the run.
        before, after: condition in SQL on the chains, with one value.
    """
    one = """SELECT task, task_type, AVG(COALESCE(score, 0)) AS v
        FROM chains JOIN parts USING (part) WHERE {} GROUP BY task"""
    rows = index.query(
        f"""SELECT a.task_type, COUNT(*) AS n, TOTAL(b.v) AS before, TOTAL(b.v * b.v) AS before_squares,
            TOTAL(a.v) AS after, TOTAL(a.v * a.v) AS after_squares, TOTAL(a.v - b.v) AS gain,
            TOTAL((a.v - b.v) * (a.v - b.v)) AS gain_squares
        FROM ({one.format(after[0])}) AS a JOIN ({one.format(before[0])}) AS b USING (task) GROUP BY a.task_type""",
        after[1],
        before[1],
    )
    columns = [
        _means((row["task_type"], row["n"], row[name], row[f"{name}_squares"]) for row in rows)
        for name in ("before", "after", "gain")
    ]
    return {name: (columns[0][name], columns[1][name], columns[2][name]) for name in columns[0]}


def validation_gains(index: Index, steps: Sequence[int]) -> dict[str | None, Gain]:
    """Return the gain in held-out score from the first validation to the last by task type, and of all as None."""
    if len(steps) < 2:
        return {}
    ends = steps[0], steps[-1]
    found = paired(index, *(("validate = 1 AND step = ?", step) for step in ends))
    first, last = (f"step {step}" for step in ends)
    return {name: Gain("held-out score", *means, first, last) for name, means in found.items()}


def pass_gains(index: Index, name: str) -> dict[str | None, Gain]:
    """Return the gain of a quickstart in one of its passes ("greedy", "sampled") by task type, and of all as None."""
    labels = f"warm start, {name}", f"trained, {name}"
    found = paired(index, ("parts.label = ?", labels[0]), ("parts.label = ?", labels[1]))
    return {
        kind: Gain("held-out score", *means, "warm start", "trained policy", "for the") for kind, means in found.items()
    }


def steps_in_words(ends: tuple[int, int]) -> str:
    """Return the first and the last step in words."""
    return f"step {ends[0]}" if ends[0] == ends[1] else f"steps {ends[0]} to {ends[1]}"


def _means(rows: Iterable[tuple[str, int, float, float]]) -> dict[str | None, Mean]:
    """Return means by name from number, sum and sum of squares, and of all as None."""
    found = list(rows)
    _, counts, totals, squared = zip(*found, strict=True) if found else ((), (), (), ())
    named: list[tuple[str | None, Mean | None]] = [
        (None, Mean.of(sum(counts), sum(totals), sum(squared))),
        *((name, Mean.of(count, total, squares)) for name, count, total, squares in found),
    ]
    return {name: mean for name, mean in named if mean is not None}
