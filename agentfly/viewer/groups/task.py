"""The chains of one task: those of one step as a grid, and those of all steps in columns, so that learning is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentfly.viewer.chain.credit import advantage_of
from agentfly.viewer.chain.setup import RunSetup
from agentfly.viewer.index import Index, Row

MOST_MOMENTS = 12  # columns
MOST_CHAINS = 64  # of the grid
_MOST_IN_COLUMN = 8
_MOST_ROWS = 20_000


@dataclass(frozen=True)
class Member:
    """A chain of the grid.

    Attributes:
        row: in the index.
        advantage: the mean of those of its turns; None where it is not known.
        by_turn: its turns have different advantages.
    """

    row: Row
    advantage: float | None
    by_turn: bool = False


@dataclass(frozen=True)
class Moment:
    """The chains of the task in one part of the run, at one step.

    Attributes:
        part, label, step, validate: of the chains.
        size: number of chains.
        score, reward: means; None where there are none.
        shown: some of the chains, the best first.
        chosen: its chains are the grid.
    """

    part: int
    label: str
    step: int | None
    validate: bool | None
    size: int
    score: float | None
    reward: float | None
    shown: tuple[Row, ...]
    chosen: bool


@dataclass(frozen=True)
class TaskView:
    """The chains of a task.

    Attributes:
        first: one of the chains, for what they share.
        members: chains of the chosen moment, the best first; `size` is the number of all of them.
        words: how the advantages were computed, or why they are not known.
        mean, spread: of the rewards of the chosen moment; None where it has none.
        flat: nothing can be learned from it.
        moments: columns, in time; `all_moments` is the number of all of them.
        earlier, later: moments beside the chosen one; None at the ends.
    """

    first: Row
    members: tuple[Member, ...]
    size: int
    words: str
    mean: float | None
    spread: float | None
    flat: bool
    moments: tuple[Moment, ...]
    all_moments: int
    earlier: Moment | None
    later: Moment | None

    @property
    def chosen(self) -> Moment:
        """The moment whose chains are the grid."""
        return next(moment for moment in self.moments if moment.chosen)


def task_view(index: Index, task: str, step: int | None, part: int | None, setup: RunSetup) -> TaskView:
    """Return the chains of a task.

    Args:
        index: of the run.
        task: its id.
        step, part: the moment that is wanted; the last one where they are None, or do not occur.
        setup: of the run, for its advantages.

    Raises:
        KeyError: there is no chain of this task.
    """
    by_moment = _by_moment(index, task)
    keys = list(by_moment)
    wanted = [key for key in keys if (step is None or key[1] == step) and (part is None or key[0] == part)]
    chosen = keys.index(_best(wanted or keys, by_moment))
    rows = _best_first(by_moment[keys[chosen]])
    rewards = [row.reward for row in rows if row.reward is not None]
    mean = sum(rewards) / len(rewards) if rewards else None
    members, words = _members(index, rows[:MOST_CHAINS], setup)
    moments = [_moment(by_moment[key], place == chosen) for place, key in enumerate(keys)]
    return TaskView(
        first=next((row for row in rows if row.source), rows[0]),
        members=members,
        size=len(rows),
        words=words,
        mean=mean,
        spread=None if mean is None else (sum((r - mean) * (r - mean) for r in rewards) / len(rewards)) ** 0.5,
        flat=len(rewards) > 1 and max(rewards) - min(rewards) < 1e-6,
        moments=tuple(moments[place] for place in _some(len(moments), chosen)),
        all_moments=len(moments),
        earlier=moments[chosen - 1] if chosen else None,
        later=moments[chosen + 1] if chosen + 1 < len(moments) else None,
    )


def _by_moment(index: Index, task: str) -> dict[tuple[int, int, bool], list[Row]]:
    """Return the chains of a task by part, step (-1 for none) and whether they are of a validation."""
    found = index.query(
        "SELECT chains.*, parts.label FROM chains JOIN parts USING (part) WHERE task = ?"
        " ORDER BY part, step, validate, n LIMIT ?",
        task,
        _MOST_ROWS,
    )
    if not found:
        raise KeyError(task)
    by_moment: dict[tuple[int, int, bool], list[Row]] = {}
    for row in map(Row.of, found):
        by_moment.setdefault((row.part, -1 if row.step is None else row.step, bool(row.validate)), []).append(row)
    return by_moment


def _best(keys: Sequence[tuple[int, int, bool]], rows: dict[tuple[int, int, bool], list[Row]]) -> tuple[int, int, bool]:
    """Return the last of the moments that have several chains, or the last one."""
    return next((key for key in reversed(keys) if len(rows[key]) > 1), keys[-1])


def _best_first(rows: Sequence[Row]) -> list[Row]:
    def value(row: Row) -> float:
        known = row.reward if row.reward is not None else None if row.score is None else row.score / 100
        return float("-inf") if known is None else known

    return sorted(rows, key=lambda row: (-value(row), row.n))


def _members(index: Index, rows: Sequence[Row], setup: RunSetup) -> tuple[tuple[Member, ...], str]:
    members, words = [], ""
    for row in rows:
        found = advantage_of(index, row, setup, row.reward, row.turns)
        turns = found.by_turn
        mean = sum(turns) / len(turns) if turns else None
        members.append(Member(row, mean, len(set(turns)) > 1))
        # The reason of a chain without a reward says nothing about the others.
        words = found.words if turns or not words else words
    return tuple(members), words


def _moment(rows: Sequence[Row], chosen: bool) -> Moment:
    scores = [row.score for row in rows if row.score is not None]
    rewards = [row.reward for row in rows if row.reward is not None]
    one = rows[0]
    return Moment(
        one.part,
        one.label,
        one.step,
        one.validate,
        len(rows),
        sum(scores) / len(scores) if scores else None,
        sum(rewards) / len(rewards) if rewards else None,
        tuple(_best_first(rows)[:_MOST_IN_COLUMN]),
        chosen,
    )


def _some(count: int, chosen: int) -> list[int]:
    """Return the places of moments that are shown: all of them, or some at equal distances with the chosen one."""
    if count <= MOST_MOMENTS:
        return list(range(count))
    places = {round(place * (count - 1) / (MOST_MOMENTS - 1)) for place in range(MOST_MOMENTS)}
    return sorted(places | {chosen})
