"""The overview of a run."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from agentfly.viewer.pages.context import open_run, run_page
from agentfly.viewer.web import page_response

router = APIRouter()


@router.get("/runs/{slug}/")
def show(request: Request, slug: str) -> Response:
    """Return the overview."""
    run, state = open_run(request, slug)
    return page_response(run_page(request, run, state, "", run.run.name), "overview.html.jinja")
