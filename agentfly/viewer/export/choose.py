"""Choose the chains of an export: those with trouble, the best and the worst, whole groups, and the rest at random."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agentfly.viewer.index import Index

_LARGEST_GROUP = 16


@dataclass(frozen=True)
class Choice:
    """The chains of an export.

    Attributes:
        chains: their numbers in the index.
        total: chains of the run.
        reasons: why they were chosen, in words, with their number; empty where all were.
    """

    chains: tuple[int, ...]
    total: int
    reasons: tuple[tuple[str, int], ...] = ()

    def words(self) -> str:
        """Return what is in the export and what is not, in one sentence."""
        if len(self.chains) == self.total:
            return f"All {self.total:,} chains of the run."
        parts = ", ".join(f"{count} {reason}" for reason, count in self.reasons if count)
        return f"{len(self.chains):,} of {self.total:,} chains of the run: {parts}. The others were left out."


@dataclass(frozen=True)
class _Chain:
    n: int
    score: float | None
    task_type: str
    alarms: tuple[str, ...]
    group: tuple[int, int, str]


def choose_chains(index: Index, most: int, without: Callable[[int], bool] = lambda _: False) -> Choice:
    """Return the chains of an export. The same run gives the same ones.

    Args:
        index: of the run.
        most: number of chains.
        without: True for a chain that must not be in an export.
    """
    found = [
        _Chain(
            row["n"],
            row["score"],
            row["task_type"],
            tuple(word for word in row["alarms"].split("|") if word),
            (row["part"], -1 if row["step"] is None else row["step"], row["group_id"]),
        )
        for row in index.query("SELECT n, part, step, group_id, task_type, score, alarms FROM chains ORDER BY n")
    ]
    if len(found) <= most:
        kept = tuple(chain.n for chain in found if not without(chain.n))
        left = () if len(kept) == len(found) else (("without keys in their texts", len(kept)),)
        return Choice(kept, len(found), left)
    taking = _Taking(most, without)
    kinds = sorted({alarm for chain in found for alarm in chain.alarms})
    for kind in kinds:
        with_alarm = [chain for chain in found if kind in chain.alarms]
        taking.take("with alarms", _spread(with_alarm), max(1, most // 4 // len(kinds)))
    scored = sorted((chain for chain in found if chain.score is not None), key=lambda chain: (chain.score, chain.n))
    taking.take("best", reversed(scored), max(1, most // 10))
    taking.take("worst", scored, max(1, most // 10))
    for group in _groups(found):
        if len(group) <= most // 4 - taking.counts["in whole groups"]:
            taking.take("in whole groups", group, len(group))
    taking.take("at random over all types of tasks", _by_type(found), most)
    return Choice(tuple(sorted(taking.chosen)), len(found), tuple(taking.counts.items()))


class _Taking:
    """Takes chains until there are enough, and counts for which reason."""

    def __init__(self, most: int, without: Callable[[int], bool]) -> None:
        self._most, self._without = most, without
        self.chosen: set[int] = set()
        self.counts: dict[str, int] = defaultdict(int)

    def take(self, reason: str, chains: Iterable[_Chain], quota: int) -> None:
        """Take up to `quota` chains that are not there yet."""
        for chain in chains:
            if quota <= 0 or len(self.chosen) >= self._most:
                return
            if chain.n not in self.chosen and not self._without(chain.n):
                self.chosen.add(chain.n)
                self.counts[reason] += 1
                quota -= 1


def _spread(chains: Sequence[_Chain]) -> list[_Chain]:
    """Return the first and the last, then those in between by halves, so that few of them are spread over the run."""
    order, open_ranges = [], [(0, len(chains) - 1)]
    places = dict.fromkeys((0, len(chains) - 1))
    for low, high in open_ranges:
        if high - low > 1 and len(places) < 1000:
            middle = (low + high) // 2
            places[middle] = None
            open_ranges += [(low, middle), (middle, high)]
    order += [chains[place] for place in places]
    return order


def _groups(chains: Sequence[_Chain]) -> list[list[_Chain]]:
    """Return whole groups, spread over the run."""
    groups: dict[tuple[int, int, str], list[_Chain]] = defaultdict(list)
    for chain in chains:
        groups[chain.group].append(chain)
    several = [group for group in groups.values() if 1 < len(group) <= _LARGEST_GROUP]
    firsts = {group[0].n: group for group in several}
    return [firsts[chain.n] for chain in _spread([group[0] for group in several])] if several else []


def _by_type(chains: Sequence[_Chain]) -> list[_Chain]:
    """Return chains at random, the types of tasks in turn."""
    types: dict[str, list[_Chain]] = defaultdict(list)
    for chain in chains:
        types[chain.task_type].append(chain)
    # Seeded by nothing else than the run: an export that is made again has the same chains.
    for several in types.values():
        random.Random(len(several)).shuffle(several)
    turns = [(place, name, chain) for name, several in types.items() for place, chain in enumerate(several)]
    return [chain for _, _, chain in sorted(turns, key=lambda turn: turn[:2])]
