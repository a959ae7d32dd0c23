"""The list of groups. A group is the chains of one prompt, which group estimators compare with each other."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self
from urllib.parse import urlencode

from agentfly.viewer.index import Index

# Difference of two rewards below which they count as equal; see `agentfly.training.metrics.reward_groups`.
EQUAL = 1e-6
SIZE = 25
SORTS: Mapping[str, str] = {
    "step": "step",
    "spread": "spread",
    "mean": "mean",
    "size": "size",
    "task": "task",
}


@dataclass(frozen=True)
class GroupFilters:
    """What the list shows; empty fields let everything through.

    Attributes:
        part, type, step: equal to these.
        chains: "trained", "validation" or "all"; "" for the trained ones where the run has others too, else for all.
        spread: "some" for groups from which something can be learned, "none" for the others.
        sort, down: column and direction.
        page: from 1.
    """

    part: int | None = None
    type: str = ""
    step: int | None = None
    chains: str = ""
    spread: str = ""
    sort: str = "step"
    down: bool = True
    page: int = 1

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Self:
        """Return the filters of a URL's query; values that make no sense are dropped."""
        numbers: dict[str, int] = {}
        for name in ("part", "step", "page"):
            text = query.get(name, "").strip()
            if text.isdecimal() and len(text) < 16:
                numbers[name] = int(text)
        sort = query.get("sort", "")
        return cls(
            part=numbers.get("part"),
            type=query.get("type", "")[:1000],
            step=numbers.get("step"),
            chains=query.get("chains", "") if query.get("chains") in ("trained", "validation", "all") else "",
            spread=query.get("spread", "") if query.get("spread") in ("some", "none") else "",
            sort=sort if sort in SORTS else "step",
            down=query.get("down") != "0",
            page=max(1, min(numbers.get("page", 1), 10**6)),
        )

    def to_query(self, **changes: Any) -> str:
        """Return the query of a URL that has these filters and changes."""
        found, default = asdict(replace(self, **changes)), type(self)()
        given = {e.name: found[e.name] for e in fields(self) if found[e.name] != getattr(default, e.name)}
        return urlencode({name: int(v) if isinstance(v, bool) else v for name, v in given.items() if v is not None})

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition on chains in SQL and its values."""
        terms: list[tuple[str, Any]] = [
            (f"{column} = ?", value)
            for column, value in (("part", self.part), ("task_type", self.type), ("step", self.step))
            if value not in ("", None)
        ]
        if self.chains in ("trained", "validation"):
            terms.append(("validate = ?", int(self.chains == "validation")))
        return " AND ".join(term for term, _ in terms) or "1", [value for _, value in terms]


@dataclass(frozen=True)
class End:
    """The best or worst chain of a group: number, part, image and score."""

    n: int
    part: int
    final: str | None
    score: float | None


@dataclass(frozen=True)
class Group:
    """One group.

    Attributes:
        part, label, group_id, step, task, task_type, instruction: of its chains.
        source: handle of their source image.
        validate: True for chains of a validation.
        size: number of chains.
        mean, low, high: of their rewards; of their scores, from 0 to 1, where the run has no rewards.
        spread: standard deviation of them, over all chains of the group.
        best, worst: chains; None where none has a value.
    """

    part: int
    label: str
    group_id: str
    step: int | None
    task: str
    task_type: str
    instruction: str
    source: str | None
    validate: bool | None
    size: int
    mean: float | None
    low: float | None
    high: float | None
    spread: float | None
    best: End | None
    worst: End | None

    @property
    def flat(self) -> bool:
        """True if nothing can be learned from it: all of its chains got the same."""
        return self.size > 1 and self.low is not None and self.high is not None and self.high - self.low < EQUAL


@dataclass(frozen=True)
class Groups:
    """One page of the list.

    Attributes:
        rows: groups.
        total, flat: number of all groups that the filters let through, and of those without spread.
        types: to choose from.
        steps: the first and the last; None outside of training.
        rewarded: the values are rewards, not scores.
        validated: the run has chains of a validation and others.
        chains: those that are shown; see `GroupFilters`.
    """

    rows: tuple[Group, ...]
    total: int
    flat: int
    types: tuple[str, ...]
    steps: tuple[int, int] | None
    rewarded: bool
    validated: bool
    chains: str


def list_groups(index: Index, filters: GroupFilters) -> Groups:
    """Return one page of the groups that filters let through.

    Args:
        index: of the run.
        filters: from the URL.
    """
    rewarded = bool(index.query("SELECT 1 FROM chains WHERE reward IS NOT NULL LIMIT 1"))
    value = "reward" if rewarded else "score / 100.0"
    # In the order of an index, so that nothing is sorted.
    kinds = index.query(
        "SELECT task_type, validate, MIN(step) AS low, MAX(step) AS high FROM chains"
        " GROUP BY part, task_type, stop, validate"
    )
    validated = len({row["validate"] for row in kinds}) > 1
    if not filters.chains:
        filters = replace(filters, chains="trained" if validated else "all")
    found = _page(index, filters, value)
    if not found and filters.page > 1:  # the run was cut back, or the URL was written by hand
        found = _page(index, replace(filters, page=1), value)
    steps = [step for row in kinds for step in (row["low"], row["high"]) if step is not None]
    return Groups(
        tuple(_group(index, row, value) for row in found),
        found[0]["total"] if found else 0,
        found[0]["flats"] if found else 0,
        tuple(sorted({row["task_type"] for row in kinds})),
        (min(steps), max(steps)) if steps else None,
        rewarded,
        validated,
        filters.chains,
    )


def _page(index: Index, filters: GroupFilters, value: str) -> list[sqlite3.Row]:
    where, values = filters.where()
    # Equal rewards are known by their ends: their variance is only nearly 0 in floating point.
    grouped = f"""SELECT part, group_id, step, COUNT(*) AS size, AVG({value}) AS mean, MIN({value}) AS low,
        MAX({value}) AS high, MIN(n) AS first, MIN(task) AS task,
        iif(MAX({value}) - MIN({value}) < {EQUAL}, 0,
            sqrt(max(0, AVG({value} * {value}) - AVG({value}) * AVG({value})))) AS spread
        FROM chains WHERE {where} GROUP BY part, group_id, step"""
    flat = f"(size > 1 AND coalesce(high - low < {EQUAL}, 0))"
    kept = {"": "1", "some": f"size > 1 AND NOT {flat}", "none": flat}[filters.spread]
    column = SORTS[filters.sort]
    return index.query(
        f"SELECT *, COUNT(*) OVER () AS total, SUM({flat}) OVER () AS flats FROM ({grouped}) WHERE {kept}"
        f" ORDER BY {column} IS NULL, {column} {'DESC' if filters.down else 'ASC'}, first DESC LIMIT ? OFFSET ?",
        *values,
        SIZE,
        (filters.page - 1) * SIZE,
    )


def _group(index: Index, row: sqlite3.Row, value: str) -> Group:
    first = index.row(row["first"])
    ends = [
        index.query(
            "SELECT n, part, final, score FROM chains WHERE part = ? AND group_id = ? AND step IS ?"
            f" AND {value} NOT NULL ORDER BY {value} {way}, n LIMIT 1",
            row["part"],
            row["group_id"],
            row["step"],
        )
        for way in ("DESC", "ASC")
    ]
    best, worst = (End(**dict(found[0])) if found else None for found in ends)
    return Group(
        part=first.part,
        label=first.label,
        group_id=first.group_id,
        step=first.step,
        task=first.task,
        task_type=first.task_type,
        instruction=first.instruction,
        source=first.source,
        validate=first.validate,
        size=row["size"],
        mean=row["mean"],
        low=row["low"],
        high=row["high"],
        spread=row["spread"],
        best=best,
        worst=worst if row["size"] > 1 else None,
    )
