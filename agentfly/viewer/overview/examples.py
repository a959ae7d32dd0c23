"""Chains to look at: the worst and the best of a run's end, one of each prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.viewer.index import Filters, Index, Row
from agentfly.viewer.overview.gains import steps_in_words, window

_CANDIDATES = 200  # prompts among which chains are looked for whose images were kept
COUNT = 8


@dataclass(frozen=True)
class Examples:
    """A row of chains.

    Attributes:
        title: what they are.
        about: which chains they are taken from.
        rows: to show.
        more: the chains that they are taken from.
        images: False where the run kept none.
    """

    title: str
    about: str
    rows: tuple[Row, ...]
    more: Filters
    images: bool = True


def examples_of(
    index: Index, filters: Filters, where: str, kept: Callable[[Row], bool] = lambda row: True
) -> tuple[Examples, ...]:
    """Return the failures and the successes among some chains, the clearest first; of unscored chains the newest.

    Args:
        index: of the run.
        filters: of the chains.
        where: the same in words, such as "steps 12 to 16".
        kept: tells whether the images of a chain were kept; such chains are preferred, for they show what happened.
    """
    bad = replace(filters, score_to=SUCCESS - 0.1, sort="score", down=False)
    good = replace(filters, score_from=SUCCESS, sort="score", down=True)
    choice = "one chain a prompt"
    worst, best = _distinct(index, bad, kept), _distinct(index, good, kept)
    found = (
        Examples("What a failure looks like", f"lowest scores of {where}, {choice}", worst, bad),
        Examples("What a success looks like", f"highest scores of {where}, {choice}", best, good),
    )
    shown = tuple(each for each in found if each.rows)
    if shown:
        return shown
    newest = replace(filters, sort="n", down=True)
    rows = tuple(index.rows(replace(newest, size=25))[0][:COUNT])
    return (Examples("The newest chains", "without a score", rows, newest),) if rows else ()


def last_steps(steps: list[int]) -> tuple[Filters, str]:
    """Return the filters of a training run's last steps, and the same in words."""
    ends = window(steps)
    first, last = ends[1] if ends is not None else (steps[0], steps[0])
    return Filters(step=first, step_to=last, validate=False), steps_in_words((first, last))


def _distinct(index: Index, filters: Filters, kept: Callable[[Row], bool]) -> tuple[Row, ...]:
    """Return the first chains by their score, one of each prompt.

    Those whose images were kept are preferred, and those with a result where scores are equal.
    """
    where, values = filters.where()
    way = "DESC" if filters.down else "ASC"
    # SQLite takes the other columns from the row that has the minimum or maximum.
    edge = "MAX" if filters.down else "MIN"
    found = index.query(
        f"""SELECT n, {edge}(score) AS edge, final IS NULL AS empty FROM chains WHERE {where} AND score IS NOT NULL
        GROUP BY group_id ORDER BY edge {way}, empty, n DESC LIMIT ?""",
        *values,
        _CANDIDATES,
    )
    rows = [index.row(row["n"]) for row in found]
    chosen = sorted(rows, key=lambda row: not kept(row))[:COUNT]
    return tuple(row for row in rows if row in chosen)
