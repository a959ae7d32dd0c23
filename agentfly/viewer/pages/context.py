"""What pages are made from, on the server and in an export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request

from agentfly.viewer.index.index import State
from agentfly.viewer.links import Links
from agentfly.viewer.opened import OpenRun, Viewer
from agentfly.viewer.settings import ViewerSettings
from agentfly.viewer.web import Page


@dataclass(frozen=True)
class Context:
    """What a page of a run is made from: by a route, or by an export.

    Attributes:
        viewer: all runs.
        run: of the page.
        state: of its index, as far as it could be read at once.
        links: addresses.
        settings: of the viewer.
        can_try: the viewer has a policy for the page Try.
    """

    viewer: Viewer
    run: OpenRun
    state: State
    links: Links
    settings: ViewerSettings
    can_try: bool = False

    def page(self, here: str, title: str, *, follows: bool = True, **values: Any) -> Page:
        """Return a page of the run.

        Args:
            here: name of the page in the menu.
            title: of the page.
            follows: the page shows the run while it grows.
            **values: for its template.
        """
        runs = tuple(opened.run for opened in self.viewer.runs.values())
        revision = self.state.revision if follows else None
        values["state"] = self.state
        return Page(title, self.links, self.run.run, runs, here, revision, values, self.can_try)


def viewer_of(request: Request) -> Viewer:
    """Return the runs that are viewed."""
    found: Viewer = request.app.state.viewer
    return found


def can_try(request: Request) -> bool:
    """Return True if the viewer has a policy for the page Try."""
    return request.app.state.attempts is not None


def context_of(request: Request, slug: str) -> Context:
    """Return what the pages of a run are made from.

    Raises:
        KeyError: there is no such run.
        ConfigError: it is gone.
    """
    run, state = open_run(request, slug)
    return Context(viewer_of(request), run, state, run.links(), request.app.state.settings, can_try(request))


def open_run(request: Request, slug: str) -> tuple[OpenRun, State]:
    """Return a run with its index as far as it can be read at once.

    Raises:
        KeyError: there is no such run.
        ConfigError: it is gone.
    """
    run = viewer_of(request)[slug]
    return run, run.up_to_date(request.app.state.settings.first_seconds)
