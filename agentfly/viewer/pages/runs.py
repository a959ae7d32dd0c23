"""The first page: the runs that were named on the command line."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from agentfly.viewer.links import ServerLinks
from agentfly.viewer.pages.context import can_try, viewer_of
from agentfly.viewer.web import Page, page_response

router = APIRouter()


@router.get("/")
def show(request: Request) -> Response:
    """Return the list of runs, or the overview where there is one run."""
    opened = [run.run for run in viewer_of(request).runs.values()]
    if len(opened) == 1:
        # The only run of a viewer that was started without one is that of its attempts.
        return RedirectResponse("/try" if can_try(request) else ServerLinks(opened[0].slug).page(""))
    rows = [(run, ServerLinks(run.slug).page("")) for run in opened]
    page = Page("Runs", ServerLinks(""), runs=tuple(opened), values={"rows": rows}, can_try=can_try(request))
    return page_response(page, "runs.html.jinja")
