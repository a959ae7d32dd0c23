"""The tasks that both sides of a comparison have, with their differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from agentfly.evaluation.compare import TIE, Comparison, paired
from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.viewer.comparison.sides import Side
from agentfly.viewer.index import Index

Show = Literal["", "a", "b", "fail"]
MOST_TYPES = 40


@dataclass(frozen=True)
class Result:
    """A task on one side.

    Attributes:
        n: a chain of it, the last one.
        part, final, source: of that chain.
        task_type, instruction: of the task.
        score: mean over its chains, 0 to 100; None where none has a score. A chain that a fault ended has none.
        chains: of the task.
    """

    n: int
    part: int
    final: str | None
    source: str | None
    task_type: str
    instruction: str
    score: float | None
    chains: int


@dataclass(frozen=True)
class Pair:
    """A task that both sides have."""

    task: str
    a: Result
    b: Result

    @property
    def difference(self) -> float | None:
        """B less A; None where one has no score."""
        return None if self.a.score is None or self.b.score is None else self.b.score - self.a.score

    @property
    def kind(self) -> str:
        """Of the difference: "a", "b", "" for a tie or a missing score."""
        found = self.difference
        return "" if found is None or abs(found) <= TIE else "b" if found > 0 else "a"

    @property
    def both_fail(self) -> bool:
        """No side succeeds."""
        return all(result.score is None or result.score < SUCCESS for result in (self.a, self.b))


@dataclass(frozen=True)
class Compared:
    """Two sides on the same tasks.

    Attributes:
        pairs: tasks that both have, those where B is better first.
        rows: "all" and each task type with its figures.
        only_a, only_b: ids of the tasks that one side alone has.
        different: ids of tasks that have another instruction on the other side.
        scorers: evaluators of each side, which may differ.
    """

    pairs: tuple[Pair, ...]
    rows: tuple[tuple[str, Comparison], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    different: tuple[str, ...]
    scorers: tuple[tuple[str, ...], tuple[str, ...]]

    def shown(self, show: Show, task_type: str) -> list[Pair]:
        """Return the pairs that a filter lets through, in the order that suits it.

        Args:
            show: pairs where "a" or "b" is better, or where both "fail"; "" for all.
            task_type: of the pairs; "" for all.
        """
        kept = [pair for pair in self.pairs if not task_type or pair.a.task_type == task_type]
        if show == "fail":
            return [pair for pair in kept if pair.both_fail]
        kept = [pair for pair in kept if not show or pair.kind == show]
        return kept[::-1] if show == "a" else kept


def compare(index_a: Index, a: Side, index_b: Index, b: Side) -> Compared:
    """Return two sides on the tasks that both have.

    Args:
        index_a, index_b: of the runs.
        a, b: what is compared; a difference is B less A.
    """
    first, second = _results(index_a, a), _results(index_b, b)
    both = [task for task in first if task in second]
    different = [task for task in both if first[task].instruction != second[task].instruction]
    left_out = set(different)
    pairs = [Pair(task, first[task], second[task]) for task in both if task not in left_out]
    pairs.sort(key=lambda pair: (pair.difference is None, -(pair.difference or 0.0), pair.task))
    return Compared(
        tuple(pairs),
        tuple(_rows(pairs)),
        tuple(task for task in first if task not in second),
        tuple(task for task in second if task not in first),
        tuple(different),
        (_scorers(index_a, a), _scorers(index_b, b)),
    )


def _results(index: Index, side: Side) -> dict[str, Result]:
    where, values = side.where()
    found = index.query(
        f"""SELECT task, MAX(n) AS n, part, final, source, task_type, instruction, COUNT(*) AS chains,
            AVG(CASE WHEN instr(alarms, '|failed|') THEN NULL ELSE score END) AS score
            FROM chains WHERE {where} GROUP BY task ORDER BY n""",
        *values,
    )  # SQLite takes the other columns from the row of the greatest n
    return {row["task"]: Result(**{name: row[name] for name in Result.__dataclass_fields__}) for row in found}


def _scorers(index: Index, side: Side) -> tuple[str, ...]:
    where, values = side.where()
    found = index.query(f"SELECT DISTINCT scorer FROM chains WHERE {where} AND scorer <> '' ORDER BY 1", *values)
    return tuple(row["scorer"] for row in found)


def _rows(pairs: Sequence[Pair]) -> Iterator[tuple[str, Comparison]]:
    yield "all", _figures(tuple((pair.a.score, pair.b.score) for pair in pairs))
    types = sorted({pair.a.task_type for pair in pairs})
    for name in types[:MOST_TYPES] if len(types) > 1 else ():
        yield name, _figures(tuple((p.a.score, p.b.score) for p in pairs if p.a.task_type == name))


@lru_cache(maxsize=256)
def _figures(values: tuple[tuple[float | None, float | None], ...]) -> Comparison:
    """Return the figures of pairs; the resampling takes a while, and a page is looked at more than once."""
    return paired(values)
