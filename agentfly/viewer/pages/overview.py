"""The overview of a run."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from agentfly.viewer.links import ServerLinks
from agentfly.viewer.pages.context import Context, context_of, viewer_of
from agentfly.viewer.web import Page, page_response

router = APIRouter()


def page(context: Context) -> Page:
    """Return the overview."""
    return context.page("", context.run.run.name)


@router.get("/runs/{slug}/")
def show(request: Request, slug: str) -> Response:
    """Return the overview."""
    if viewer_of(request)[slug].run.systems:
        return RedirectResponse(ServerLinks(slug).page("iterations"))
    return page_response(page(context_of(request, slug)), "overview.html.jinja")
