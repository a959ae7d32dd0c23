"""The table of chains: filters with the number of chains behind each choice, orders and pages, all in the URL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from agentfly.viewer.charts import number_text
from agentfly.viewer.index import Filters, Index, Row, Table
from agentfly.viewer.index.query import ALARMS, MOST_CHARACTERS, PAGE_SIZES
from agentfly.viewer.links import Links
from agentfly.viewer.pages.context import Context, context_of
from agentfly.viewer.web import Page, page_response
from agentfly.viewer.web.render import clip

router = APIRouter()

_MOST_CHOICES = 12
_FACETS: Mapping[str, str] = {
    "type": "Task type",
    "stop": "Stop reason",
    "alarm": "Alarm",
    "tool": "Tool",
    "validate": "Used for",
    "part": "Part",
}
_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("n", "Chain", ""),
    ("task", "Task", ""),
    ("step", "Step", "num"),
    ("score", "Score", "num"),
    ("reward", "Reward", "num"),
    ("stop", "Stop", ""),
    ("turns", "Turns", "num"),
    ("calls", "Calls", ""),
    ("tokens", "Tokens", "num"),
    ("seconds", "Time", "num"),
)
_WORDS_FIRST = ("task", "stop", "type")  # columns that begin with A when they are chosen
_FORM = ("text", "score_from", "score_to", "step", "step_to", "size")


@dataclass(frozen=True)
class Choice:
    """One value of a facet: its text and explanation, the chains behind it, and the address that takes or drops it."""

    label: str
    title: str
    count: int
    chosen: bool
    address: str


@dataclass(frozen=True)
class Facet:
    """A filter with its choices, those with the most chains first; `more` of them are not shown."""

    title: str
    choices: tuple[Choice, ...]
    more: int


@dataclass(frozen=True)
class Chip:
    """A filter that is on, with the address without it; `without` is the number of chains then, where none is shown."""

    label: str
    address: str
    without: int | None = None


@dataclass(frozen=True)
class Column:
    """A column that can be sorted by: name, shown name, class, `aria-sort` and address."""

    name: str
    title: str
    kind: str
    order: str
    address: str


@dataclass(frozen=True)
class ChainsView:
    """What the page shows.

    Attributes:
        rows, total: chains of this page, and the number of all.
        first, last: places of the rows among all, from 1.
        facets, chips, columns: see there.
        kept: fields of the URL that the form hands on.
        earlier, later: addresses of the pages beside this one, "" at the ends.
    """

    rows: tuple[Row, ...]
    total: int
    first: int
    last: int
    facets: tuple[Facet, ...]
    chips: tuple[Chip, ...]
    columns: tuple[Column, ...]
    kept: tuple[tuple[str, str], ...]
    earlier: str
    later: str


def chains_view(index: Index, filters: Filters, links: Links) -> ChainsView:
    """Return the table of chains under filters.

    Args:
        index: of the run.
        filters: from the URL.
        links: addresses of the run.
    """
    table = index.table(filters)
    last_page = max(1, -(-table.total // filters.size))
    if filters.page > last_page:  # the run was cut back, or the URL was written by hand
        filters = replace(filters, page=last_page)
        table = index.table(filters)
    labels = {row["part"]: row["label"] for row in index.query("SELECT part, label FROM parts")}
    shown = asdict(filters) | {"down": int(filters.down), "page": None}
    kept = [(name, shown[name]) for name in shown if name not in _FORM and shown[name] not in ("", None)]
    before = (filters.page - 1) * filters.size
    return ChainsView(
        rows=tuple(table.rows),
        total=table.total,
        first=before + 1 if table.rows else 0,
        last=before + len(table.rows),
        facets=tuple(_facets(table, filters, links, labels)),
        chips=tuple(_chips(index, filters, links, labels, counted=not table.total)),
        columns=tuple(_column(filters, links, *column) for column in _COLUMNS),
        kept=tuple((name, str(int(value) if isinstance(value, bool) else value)) for name, value in kept),
        earlier=links.chains(replace(filters, page=filters.page - 1)) if filters.page > 1 else "",
        later=links.chains(replace(filters, page=filters.page + 1)) if filters.page < last_page else "",
    )


def page(context: Context, filters: Filters) -> Page:
    """Return one page of the chains that filters let through."""
    view = chains_view(context.run.index, filters, context.links)
    return context.page("chains", "Chains", view=view, filters=filters, sizes=PAGE_SIZES, alarms=ALARMS)


@router.get("/runs/{slug}/chains")
def show(request: Request, slug: str) -> Response:
    """Return one page of the chains that the filters in the URL let through."""
    filters = Filters.read(request.query_params)
    return page_response(page(context_of(request, slug), filters), "chains.html.jinja")


def _facets(table: Table, filters: Filters, links: Links, labels: Mapping[int, str]) -> Iterator[Facet]:
    for name, title in _FACETS.items():
        wanted = getattr(filters, name)
        counts = {value: number for value, number in table.counts[name].items() if _can_be_chosen(value)}
        if wanted not in ("", None):
            counts.setdefault(int(wanted) if isinstance(wanted, bool) else wanted, 0)
        # One value that all chains have is no choice; one of few tools or alarms is.
        if len(counts) < 2 and wanted in ("", None) and name not in ("tool", "alarm"):
            continue
        values = sorted(counts, key=lambda value: (value != wanted, -counts[value], str(value)))
        choices = []
        for value in values[:_MOST_CHOICES]:
            chosen = value == wanted
            dropped = getattr(Filters, name) if chosen else bool(value) if name == "validate" else value
            changes: dict[str, Any] = {name: dropped, "page": 1}
            address = links.chains(replace(filters, **changes))
            words = _label(name, value, labels)
            title_of = ALARMS.get(value, words) if name == "alarm" else words
            choices.append(Choice(words, title_of, counts[value], chosen, address))
        if choices:
            yield Facet(title, tuple(choices), max(0, len(values) - _MOST_CHOICES))


def _can_be_chosen(value: Any) -> bool:
    return value is not None and (not isinstance(value, str) or 0 < len(value) <= MOST_CHARACTERS)


def _chips(index: Index, filters: Filters, links: Links, labels: Mapping[int, str], *, counted: bool) -> Iterator[Chip]:
    for words, changes in _active(filters, labels):
        without = replace(filters, page=1, **changes)
        yield Chip(words, links.chains(without), index.table(replace(without, size=1)).total if counted else None)


def _active(filters: Filters, labels: Mapping[int, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each filter that is on: its words, and the fields without it."""
    if filters.text:
        yield f"“{clip(filters.text, 40)}”", {"text": ""}
    for name in _FACETS:
        if (value := getattr(filters, name)) not in ("", None):
            yield _label(name, value, labels), {name: getattr(Filters, name)}
    for name in ("task", "group"):
        if value := getattr(filters, name):
            yield f"{name} {clip(value, 40)}", {name: ""}
    if filters.step is not None or filters.step_to is not None:
        yield f"step {_range(filters.step, filters.step_to, one=True)}", {"step": None, "step_to": None}
    if filters.score_from is not None or filters.score_to is not None:
        yield f"score {_range(filters.score_from, filters.score_to)}", {"score_from": None, "score_to": None}


def _range(low: float | None, high: float | None, *, one: bool = False) -> str:
    if high is None:
        return number_text(low) if one else f"from {number_text(low)}"
    return f"up to {number_text(high)}" if low is None else f"{number_text(low)} to {number_text(high)}"


def _label(facet: str, value: Any, labels: Mapping[int, str]) -> str:
    if facet == "validate":
        return "validation" if value else "training"
    if facet == "part":
        return labels.get(value) or f"part {value}"
    words = clip(str(value), 40)
    return words.replace("_", " ") if facet in ("type", "stop", "alarm") else words


def _column(filters: Filters, links: Links, name: str, title: str, kind: str) -> Column:
    chosen = filters.sort == name
    down = not filters.down if chosen else name not in _WORDS_FIRST
    order = ("descending" if filters.down else "ascending") if chosen else "none"
    return Column(name, title, kind, order, links.chains(replace(filters, sort=name, down=down, page=1)))
