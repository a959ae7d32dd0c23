"""Sums over the chains of a run, from one look at its index: everything that is counted on the overview."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.viewer.index import Index

_SQL = """SELECT label, step, validate, task_type, stop, tools, alarms, COUNT(*) AS chains,
    COUNT(score) AS scored, TOTAL(score) AS score, SUM(score >= ?) AS good, COUNT(reward) AS rewarded,
    TOTAL(reward) AS reward, SUM(turns) AS turns, SUM(calls) AS calls, SUM(looks) AS looks, SUM(errors) AS errors,
    TOTAL(tokens) AS tokens, TOTAL(seconds) AS seconds
FROM chains JOIN parts USING (part) GROUP BY 1, 2, 3, 4, 5, 6, 7"""


class Cell(NamedTuple):
    """Sums over the chains that have these values in common; see `agentfly.viewer.index.query.Row`.

    Attributes:
        sums: the fields of `Sums`, in their order.
    """

    label: str
    step: int | None
    validate: bool | None
    type: str
    stop: str
    tools: tuple[str, ...]
    alarms: tuple[str, ...]
    sums: tuple[float, ...]

    @property
    def chains(self) -> int:
        """Their number."""
        return int(self.sums[0])


@dataclass(frozen=True)
class Sums:
    """Sums over the chains of several cells.

    Attributes:
        chains: their number.
        scored, rewarded: of those with a score, and with a reward.
        good: of those whose score counts as a success.
        score, reward, turns, calls, looks, errors, tokens, seconds: sums over the chains.
    """

    chains: int = 0
    scored: int = 0
    score: float = 0.0
    good: int = 0
    rewarded: int = 0
    reward: float = 0.0
    turns: int = 0
    calls: int = 0
    looks: int = 0
    errors: int = 0
    tokens: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, cells: Iterable[Cell]) -> Sums:
        """Return the sums over cells."""
        return cls(*map(sum, zip(*(cell.sums for cell in cells), strict=True)))

    @property
    def success(self) -> float | None:
        """Share of the scored chains that count as a success."""
        return self.good / self.scored if self.scored else None

    @property
    def mean_score(self) -> float | None:
        """Mean score, 0 to 100."""
        return self.score / self.scored if self.scored else None

    def a_chain(self, name: str) -> float | None:
        """Return the mean of a sum over all chains."""
        total: float = getattr(self, name)
        return total / self.chains if self.chains else None


@dataclass(frozen=True)
class Cells:
    """The cells of a run, or of some of its chains."""

    cells: Sequence[Cell]

    @classmethod
    def read(cls, index: Index) -> Cells:
        """Return the cells of all chains of an index."""
        return cls([_cell(tuple(row)) for row in index.query(_SQL, SUCCESS)])

    def only(self, wanted: Callable[[Cell], bool]) -> Cells:
        """Return the cells that are wanted."""
        return Cells([cell for cell in self.cells if wanted(cell)])

    @cached_property
    def trained(self) -> Cells:
        """Chains that were trained on, of the training part."""
        return self.only(lambda cell: cell.step is not None and not cell.validate)

    @cached_property
    def validated(self) -> Cells:
        """Chains of validations."""
        return self.only(lambda cell: bool(cell.validate))

    @cached_property
    def sums(self) -> Sums:
        """Sums over all of them."""
        return Sums.of(self.cells)

    @cached_property
    def steps(self) -> list[int]:
        """Training steps that have chains."""
        return sorted({cell.step for cell in self.cells if cell.step is not None})

    @cached_property
    def types(self) -> list[str]:
        """Task types, the most frequent first."""
        return list(_ranked((cell.type, cell.chains) for cell in self.cells))

    @cached_property
    def stops(self) -> dict[str, int]:
        """Chains by stop reason, the most frequent first."""
        return _ranked((cell.stop or "unknown", cell.chains) for cell in self.cells)

    @cached_property
    def tools(self) -> dict[str, int]:
        """Chains that call a tool, by its name, the most frequent first."""
        return _ranked((tool, cell.chains) for cell in self.cells for tool in cell.tools)

    @cached_property
    def alarms(self) -> dict[str, int]:
        """Chains with a sign of trouble, by its name, the most frequent first."""
        return _ranked((alarm, cell.chains) for cell in self.cells for alarm in cell.alarms)

    def by_step(self) -> dict[int, Sums]:
        """Return the sums of each step, in order."""
        found: defaultdict[int, list[Cell]] = defaultdict(list)
        for cell in self.cells:
            if cell.step is not None:
                found[cell.step].append(cell)
        return {step: Sums.of(found[step]) for step in sorted(found)}

    def of_type(self, name: str) -> Cells:
        """Return the cells of a task type."""
        return self.only(lambda cell: cell.type == name)


def _cell(row: Sequence[Any]) -> Cell:
    label, step, validate, kind, stop, tools, alarms, *sums = row
    tried = None if validate is None else bool(validate)
    return Cell(label, step, tried, kind, stop, _words(tools), _words(alarms), tuple(value or 0 for value in sums))


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    """Return the names in a text of the index; few texts come again and again."""
    return tuple(filter(None, text.split("|")))


def _ranked(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for name, count in counts:
        total[name] += count
    return dict(total.most_common())


def shares(counts: Mapping[str, int], whole: int) -> dict[str, float]:
    """Return counts as shares of a whole, which is not 0."""
    return {name: count / whole for name, count in counts.items()} if whole else {}
