"""The overview of a run, and the list of all its settings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from agentfly.viewer.index.index import State
from agentfly.viewer.links import ServerLinks
from agentfly.viewer.opened import OpenRun, Viewer
from agentfly.viewer.overview.build import Builder, Overview, compare
from agentfly.viewer.pages.context import Context, context_of, viewer_of
from agentfly.viewer.runs.facts import Difference, settings_of
from agentfly.viewer.runs.notices import LogNotices
from agentfly.viewer.web import Page, page_response

router = APIRouter()

_MOST_DIFFERENCES = 150


@dataclass(frozen=True)
class Against:
    """The run to compare with.

    Attributes:
        choices: slug and name of the other runs of this viewer.
        slug, name: of the chosen one; "" for none.
        differences: settings that the two do not share, the first of them.
        count: of all of them.
    """

    choices: tuple[tuple[str, str], ...] = ()
    slug: str = ""
    name: str = ""
    differences: tuple[Difference, ...] = ()
    count: int = 0


def overview_of(run: OpenRun, state: State, other: OpenRun | None = None) -> Overview:
    """Return the overview of a run as it is now.

    Args:
        run: the run.
        state: of its index.
        other: run whose curves are drawn beside; None for none.
    """
    beside = None if other is None else (other, other.up_to_date(0.1).revision)
    # A run that is quiet for long no longer counts as running, though none of its files changes.
    return _made(run, state, run.notices(), beside, int(time.time()) // 60)


@lru_cache(maxsize=16)
def _made(run: OpenRun, state: State, logs: LogNotices, beside: tuple[OpenRun, str] | None, minute: int) -> Overview:
    """Return an overview, which is made once a minute for each state of the runs that it shows."""
    return Builder(run, state, logs, beside[0] if beside else None).overview()


def overview_values(viewer: Viewer, run: OpenRun, state: State, against: str = "") -> dict[str, Any]:
    """Return what the template of the overview shows.

    Args:
        viewer: all runs.
        run: the run.
        state: of its index.
        against: slug of a run to compare with; one that is not there is passed over.
    """
    others = {slug: other for slug, other in viewer.runs.items() if other is not run and not other.run.systems}
    choices = tuple((slug, other.run.name) for slug, other in others.items())
    other = others.get(against)
    found = overview_of(run, state, other)
    if other is None:
        return {"overview": found, "against": Against(choices)}
    different = compare(found, other)
    shown = Against(choices, against, other.run.name, tuple(different[:_MOST_DIFFERENCES]), len(different))
    return {"overview": found, "against": shown}


def page(context: Context, against: str = "") -> Page:
    """Return the overview, beside the run of a slug where one is named."""
    values = overview_values(context.viewer, context.run, context.state, against)
    return context.page("", context.run.run.name, **values)


@router.get("/runs/{slug}/")
def show(request: Request, slug: str, against: str = "") -> Response:
    """Return the overview, beside the run `against` where one is named."""
    if viewer_of(request)[slug].run.systems:
        return RedirectResponse(ServerLinks(slug).page("iterations"))
    return page_response(page(context_of(request, slug), against), "overview.html.jinja")


@router.get("/runs/{slug}/settings")
def settings(request: Request, slug: str) -> Response:
    """Return all settings of a run."""
    context = context_of(request, slug)
    found = settings_of(context.run.run)
    return page_response(context.page("", "Settings", follows=False, settings=found), "settings.html.jinja")
