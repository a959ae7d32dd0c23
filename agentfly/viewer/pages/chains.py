"""The table of chains."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from agentfly.viewer.index import Filters
from agentfly.viewer.pages.context import Context, context_of
from agentfly.viewer.web import Page, page_response

router = APIRouter()


def page(context: Context, filters: Filters) -> Page:
    """Return one page of the chains that filters let through."""
    rows, total = context.run.index.rows(filters)
    return context.page("chains", "Chains", rows=rows, total=total, filters=filters)


@router.get("/runs/{slug}/chains")
def show(request: Request, slug: str) -> Response:
    """Return one page of the chains that the filters in the URL let through."""
    filters = Filters.read(request.query_params)
    return page_response(page(context_of(request, slug), filters), "chains.html.jinja")
