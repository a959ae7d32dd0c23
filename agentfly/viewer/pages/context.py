"""What the routes of all pages share."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from agentfly.viewer.index.index import State
from agentfly.viewer.opened import OpenRun, Viewer
from agentfly.viewer.web import Page


def viewer_of(request: Request) -> Viewer:
    """Return the runs that are viewed."""
    found: Viewer = request.app.state.viewer
    return found


def can_try(request: Request) -> bool:
    """Return True if the viewer has a policy for the page Try."""
    return request.app.state.attempts is not None


def open_run(request: Request, slug: str) -> tuple[OpenRun, State]:
    """Return a run with its index as far as it can be read at once.

    Raises:
        KeyError: there is no such run.
        ConfigError: it is gone.
    """
    run = viewer_of(request)[slug]
    return run, run.up_to_date(request.app.state.settings.first_seconds)


def run_page(request: Request, run: OpenRun, state: State | None, here: str, title: str, **values: Any) -> Page:
    """Return a page of a run.

    Args:
        request: that is answered.
        run: of the page.
        state: of its index, for a page that shows the run while it grows; else None.
        here: name of the page in the menu.
        title: of the page.
        **values: for its template.
    """
    return Page(
        title,
        run.links(),
        run.run,
        tuple(opened.run for opened in viewer_of(request).runs.values()),
        here,
        None if state is None else state.revision,
        {"state": state, **values},
        can_try=can_try(request),
    )
