"""Two runs, or two parts of one, side by side on the same tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from agentfly.errors import ConfigError
from agentfly.viewer.comparison.sides import Side, choose_sides, part_choices, side_names
from agentfly.viewer.comparison.tasks import Compared, Pair, Show, compare
from agentfly.viewer.links import ServerLinks
from agentfly.viewer.opened import Viewer
from agentfly.viewer.pages.context import open_run, viewer_of
from agentfly.viewer.web import Page, page_response

router = APIRouter()

SIZE = 50
_SHOWS: Mapping[Show, str] = {"": "all", "b": "{b} better", "a": "{a} better", "fail": "both fail"}


@dataclass(frozen=True)
class CompareQuery:
    """The query of the page.

    Attributes:
        a, b: slugs of runs; "" where none was chosen yet.
        numbers: `part_a`, `step_a`, `part_b` and `step_b`.
        show, type: see `Compared.shown`.
        page: from 1.
    """

    a: str
    b: str
    numbers: Mapping[str, int | None]
    show: Show = ""
    type: str = ""
    page: int = 1

    @classmethod
    def read(cls, query: Mapping[str, str], runs: Mapping[str, object]) -> CompareQuery:
        """Return the query of a URL; a viewer of one run compares it with itself."""
        alone = next(iter(runs)) if len(runs) == 1 else ""
        numbers = {name: _number(query.get(name, "")) for name in ("part_a", "step_a", "part_b", "step_b")}
        show: Show = next((name for name in _SHOWS if name == query.get("show")), "")
        page = max(1, _number(query.get("page", "")) or 1)
        return cls(query.get("a") or alone, query.get("b") or alone, numbers, show, query.get("type", ""), page)

    def address(self, **changes: Any) -> str:
        """Return the address of the page with changes; another choice begins at its first page."""
        found = {"a": self.a, "b": self.b, **self.numbers, "show": self.show, "type": self.type, **changes}
        return f"/compare?{urlencode({name: value for name, value in found.items() if value not in ('', None)})}"


@dataclass(frozen=True)
class CompareView:
    """What the page shows.

    Attributes:
        a, b: sides.
        names: of the sides, by their letters.
        compared: their tasks.
        pairs: tasks of this page; `total` is the number of all that the filter lets through.
        counts: by filter, the number of tasks.
        page, pages: number of this page, and of all.
    """

    a: Side
    b: Side
    names: Mapping[str, str]
    compared: Compared
    pairs: tuple[Pair, ...]
    total: int
    counts: tuple[tuple[Show, str, int], ...]
    page: int
    pages: int


def compare_view(viewer: Viewer, query: CompareQuery) -> CompareView:
    """Return two sides on the same tasks.

    Args:
        viewer: the runs.
        query: with two slugs of them.

    Raises:
        KeyError: there is no such run.
        ConfigError: a run has no chain yet.
    """
    first, second = viewer[query.a].index, viewer[query.b].index
    parts = {slug: part_choices(index) for slug, index in ((query.a, first), (query.b, second))}
    for slug, choices in parts.items():
        if not choices:
            raise ConfigError(f"the run {slug!r} has no chain yet: load the page again when it has")
    a, b = choose_sides((query.a, parts[query.a]), (query.b, parts[query.b]), query.numbers)
    names = dict(zip("ab", side_names((viewer[query.a].run, a), (viewer[query.b].run, b)), strict=True))
    compared = compare(first, a, second, b)
    kept = compared.shown(query.show, query.type)
    pages = max(1, -(-len(kept) // SIZE))
    page = min(query.page, pages)
    return CompareView(
        a,
        b,
        names,
        compared,
        tuple(kept[(page - 1) * SIZE : page * SIZE]),
        len(kept),
        tuple((show, words.format(**names), len(compared.shown(show, query.type))) for show, words in _SHOWS.items()),
        page,
        pages,
    )


@router.get("/compare")
def show(request: Request) -> Response:
    """Return the comparison of two runs, or the form to choose them where the URL names none."""
    viewer = viewer_of(request)
    query = CompareQuery.read(request.query_params, viewer.runs)
    runs = tuple(opened.run for opened in viewer.runs.values())
    if not query.a or not query.b:
        page = Page("Compare", ServerLinks(""), runs=runs, here="compare", values={"query": query, "view": None})
        return page_response(page, "compare.html.jinja")
    for slug in (query.a, query.b):
        open_run(request, slug)
    view = compare_view(viewer, query)
    shown = {"a": viewer[query.a], "b": viewer[query.b]}
    values: dict[str, Any] = {"query": query, "view": view}
    values["sides"] = {letter: run.links() for letter, run in shown.items()}
    values["runs"] = {letter: run.run for letter, run in shown.items()}
    title = f"{view.names['a']} and {view.names['b']}"
    return page_response(Page(title, ServerLinks(""), runs=runs, here="compare", values=values), "compare.html.jinja")


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 16 else None
