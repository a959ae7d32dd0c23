"""Filters and sorting of the table of chains, as they stand in its URL, and its rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self
from urllib.parse import urlencode

ALARMS: Mapping[str, str] = {
    "failed": "a fault ended the chain",
    "malformed": "a call could not be read",
    "tool_error": "a tool refused a call",
    "cut": "a turn was cut at its token limit",
    "no_result": "no tool made an image",
    "unscored": "no evaluator gave a score",
    "reward_error": "the reward function failed",
}
SORTS: Mapping[str, str] = {
    "n": "n",
    "step": "step",
    "score": "score",
    "reward": "reward",
    "turns": "turns",
    "calls": "calls",
    "tokens": "tokens",
    "seconds": "seconds",
    "type": "task_type",
    "task": "task",
    "stop": "stop",
}
MOST_CHARACTERS = 300  # of a value; an address with filters stands in each row
PAGE_SIZES = (25, 50, 100, 200)


@dataclass(frozen=True)
class Filters:
    """What a table shows. Empty fields let everything through; those of the URL that make no sense are dropped.

    Attributes:
        part: number of the part.
        step, step_to: training step, or the first and last of a range.
        validate: True for validation chains alone, False for trained ones.
        type, stop, tool, alarm, task, group: equal to these.
        score_from, score_to: range of the score.
        text: words that occur in instruction, answers, turns or error.
        sort, down: column and direction.
        page, size: of the table, from 1.
    """

    part: int | None = None
    step: int | None = None
    step_to: int | None = None
    validate: bool | None = None
    type: str = ""
    stop: str = ""
    tool: str = ""
    alarm: str = ""
    task: str = ""
    group: str = ""
    score_from: float | None = None
    score_to: float | None = None
    text: str = ""
    sort: str = "n"
    down: bool = True
    page: int = 1
    size: int = 50

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Self:
        """Return the filters of a URL's query."""
        found: dict[str, Any] = {}
        for entry in fields(cls):
            value = query.get(entry.name, "").strip()[:MOST_CHARACTERS]
            kind = str(entry.type)
            try:
                if value:
                    found[entry.name] = (
                        value == "1"
                        if kind.startswith("bool")
                        else int(value)
                        if kind.startswith("int")
                        else float(value)
                        if kind.startswith("float")
                        else value
                    )
            except ValueError:
                continue
        clean = cls(**found)
        size = clean.size if clean.size in PAGE_SIZES else 50
        sort = clean.sort if clean.sort in SORTS else "n"
        known = replace(clean, page=min(max(1, clean.page), 10**9), size=size, sort=sort)
        # SQLite has whole numbers of 64 bits.
        small = all(abs(value or 0) < 2**62 for value in (clean.part, clean.step, clean.step_to))
        return known if small else replace(known, part=None, step=None, step_to=None)

    def to_query(self, **changes: Any) -> str:
        """Return the query of a URL that has these filters and changes, without what is as it would be anyway."""
        changed = asdict(replace(self, **changes))
        default = asdict(type(self)())
        given = {name: value for name, value in changed.items() if value != default[name] and value is not None}
        return urlencode({name: int(v) if isinstance(v, bool) else v for name, v in given.items()})

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition in SQL and its values."""
        terms: list[tuple[str, Any]] = []
        for column in ("part", "validate", "stop", "task"):
            if (value := getattr(self, column)) not in ("", None):
                terms.append((f"chains.{column} = ?", value))
        terms += [("task_type = ?", self.type)] if self.type else []
        terms += [("group_id = ?", self.group)] if self.group else []
        terms += [(f"instr({c}, ?)", f"|{v}|") for c, v in (("tools", self.tool), ("alarms", self.alarm)) if v]
        if self.step is not None:
            terms.append(("step = ?" if self.step_to is None else "step >= ?", self.step))
        terms += [("step <= ?", self.step_to)] if self.step_to is not None else []
        terms += [("score >= ?", self.score_from)] if self.score_from is not None else []
        terms += [("score <= ?", self.score_to)] if self.score_to is not None else []
        terms += [("instr(search, ?)", word) for word in self.text.casefold().split()]
        return " AND ".join(term for term, _ in terms) or "1", [value for _, value in terms]

    def order(self) -> str:
        """Return the order in SQL; chains without a value come last."""
        column, way = SORTS[self.sort], "DESC" if self.down else "ASC"
        if column == "n":  # the order of the table itself, which then need not be sorted
            return f"n {way}"
        return f"{column} IS NULL, {column} {way}, n {way}"


@dataclass(frozen=True)
class Row:
    """A chain in the table; see the attributes of `Trajectory`.

    Attributes:
        n: number of the chain in the index.
        part, label: number and label of its part.
        offset, length: place of its line in the file.
        tools, alarms: names.
        source, final, target: handles of images.
        scorer: evaluator of the score; "" where a reward function gave it.
    """

    n: int
    part: int
    label: str
    offset: int
    length: int
    key: str
    id: str
    group_id: str
    task: str
    task_type: str
    instruction: str
    step: int | None
    validate: bool | None
    score: float | None
    reward: float | None
    stop: str
    turns: int
    calls: int
    looks: int
    errors: int
    tokens: int
    seconds: float
    began: float
    tools: tuple[str, ...]
    alarms: tuple[str, ...]
    source: str | None
    final: str | None
    target: str | None
    scorer: str

    @classmethod
    def of(cls, row: sqlite3.Row) -> Self:
        """Return the chain of a row of `chains` with the label of its part."""
        data = {name: row[name] for name in cls.__dataclass_fields__}
        data["validate"] = None if data["validate"] is None else bool(data["validate"])
        for name in ("tools", "alarms"):
            data[name] = tuple(word for word in data[name].split("|") if word)
        return cls(**data)
