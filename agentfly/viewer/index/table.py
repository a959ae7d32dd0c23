"""One page of the table of chains, and the number of chains behind each choice of a filter."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentfly.viewer.index.query import Filters, Row

FACETS = ("part", "type", "stop", "tool", "alarm", "validate")
_COLUMNS = ("part", "task_type", "stop", "tools", "alarms", "validate")  # of the facets
_NONE: Mapping[str, Any] = {name: getattr(Filters, name) for name in FACETS}
# What a search for words finds is looked at several times, but searched for once.
_HITS = f"""CREATE TEMP TABLE hits AS
SELECT n, {", ".join(_COLUMNS)}, step, score, reward, turns, calls, tokens, seconds, task, group_id FROM chains WHERE"""


@dataclass(frozen=True)
class Table:
    """What the table of chains shows.

    Attributes:
        rows: of one page.
        total: chains that the filters let through.
        counts: by facet and value: the chains that there would be with this value. The other filters apply.
    """

    rows: list[Row]
    total: int
    counts: Mapping[str, Mapping[Any, int]]


def table_of(database: sqlite3.Connection, filters: Filters) -> Table:
    """Return what the table shows under filters.

    Args:
        database: the index.
        filters: of the table.
    """
    source, left = "chains", filters
    database.execute("PRAGMA temp_store = MEMORY")
    if filters.text:
        where, values = replace(filters, **_NONE).where()
        database.execute(f"{_HITS} {where}", values)
        source = "hits"
        left = replace(Filters(), **{name: getattr(filters, name) for name in (*FACETS, "sort", "down")})
    total, counts = _counts(database, source, left)
    where, values = left.where()
    page = [*values, filters.size, (filters.page - 1) * filters.size]
    order = filters.order()
    # The numbers first: most orders and filters need no row of the wide table for them.
    numbers = f"SELECT n FROM {source} AS chains WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?"
    found = database.execute(
        f"SELECT chains.*, parts.label FROM chains JOIN parts USING (part) WHERE n IN ({numbers}) ORDER BY {order}",
        page,
    )
    return Table([Row.of(row) for row in found], total, counts)


@dataclass(frozen=True)
class Place:
    """The place of a chain in a table.

    Attributes:
        number, total: its place, from 1, among all that the filters let through.
        before, after: the chains beside it; None at the ends.
    """

    number: int
    total: int
    before: int | None
    after: int | None


def place_of(database: sqlite3.Connection, filters: Filters, n: int) -> Place | None:
    """Return the place of a chain in the table of filters; None where they do not let it through."""
    where, values = filters.where()
    found = database.execute(
        f"""SELECT number, before, after, total FROM (
            SELECT n, row_number() OVER o AS number, lag(n) OVER o AS before, lead(n) OVER o AS after,
                   count(*) OVER () AS total
            FROM chains WHERE {where} WINDOW o AS (ORDER BY {filters.order()})
        ) WHERE n = ?""",
        [*values, n],
    ).fetchone()
    return None if found is None else Place(found["number"], found["total"], found["before"], found["after"])


def _counts(database: sqlite3.Connection, source: str, filters: Filters) -> tuple[int, Mapping[str, Mapping[Any, int]]]:
    """Return the number of chains that filters let through, and those of each value; see `Table`."""
    where, values = replace(filters, **_NONE).where()
    columns = ", ".join(_COLUMNS)
    # Few combinations occur, so one look at the narrow index serves all facets.
    combinations = database.execute(
        f"SELECT {columns}, COUNT(*) FROM {source} AS chains WHERE {where} GROUP BY {columns}", values
    )
    total, counts = 0, {name: Counter[Any]() for name in FACETS}
    for *cells, number in combinations:
        has = {
            name: tuple(filter(None, cell.split("|"))) if name in ("tool", "alarm") else (cell,)
            for name, cell in zip(FACETS, cells, strict=True)
        }
        refused = [
            name for name in FACETS if (wanted := getattr(filters, name)) not in ("", None) and wanted not in has[name]
        ]
        total += 0 if refused else number
        for name in FACETS if not refused else refused if len(refused) == 1 else ():
            counts[name].update(dict.fromkeys(has[name], number))
    return total, counts
