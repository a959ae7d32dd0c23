"""The first page: the runs that were named on the command line."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from agentfly.viewer.links import ServerLinks
from agentfly.viewer.pages.context import viewer_of
from agentfly.viewer.web import Page, page_response

router = APIRouter()


@router.get("/")
def show(request: Request) -> Response:
    """Return the list of runs, or the overview where there is one run."""
    opened = [run.run for run in viewer_of(request).runs.values()]
    if len(opened) == 1:
        return RedirectResponse(ServerLinks(opened[0].slug).page(""))
    rows = [(run, ServerLinks(run.slug).page("")) for run in opened]
    return page_response(Page("Runs", ServerLinks(""), runs=tuple(opened), values={"rows": rows}), "runs.html.jinja")
