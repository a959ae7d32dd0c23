"""The overview of a run."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from agentfly.viewer.links import ServerLinks
from agentfly.viewer.pages.context import open_run, run_page, viewer_of
from agentfly.viewer.web import page_response

router = APIRouter()


@router.get("/runs/{slug}/")
def show(request: Request, slug: str) -> Response:
    """Return the overview."""
    if viewer_of(request)[slug].run.systems:
        return RedirectResponse(ServerLinks(slug).page("iterations"))
    run, state = open_run(request, slug)
    return page_response(run_page(request, run, state, "", run.run.name), "overview.html.jinja")
