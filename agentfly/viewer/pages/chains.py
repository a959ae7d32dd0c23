"""The table of chains."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from agentfly.viewer.index import Filters
from agentfly.viewer.pages.context import open_run, run_page
from agentfly.viewer.web import page_response

router = APIRouter()


@router.get("/runs/{slug}/chains")
def show(request: Request, slug: str) -> Response:
    """Return one page of the chains that the filters in the URL let through."""
    run, state = open_run(request, slug)
    filters = Filters.read(request.query_params)
    rows, total = run.index.rows(filters)
    page = run_page(request, run, state, "chains", "Chains", rows=rows, total=total, filters=filters)
    return page_response(page, "chains.html.jinja")
