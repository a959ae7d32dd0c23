"""One chain: what the policy saw, did and got."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from agentfly.viewer.pages.context import open_run, run_page
from agentfly.viewer.web import page_response

router = APIRouter()


@router.get("/runs/{slug}/chains/{n}")
def show(request: Request, slug: str, n: int) -> Response:
    """Return the page of a chain."""
    run, _ = open_run(request, slug)
    row, line = run.index.row(n), run.index.line(n)
    page = run_page(request, run, None, "chains", f"Chain {row.key}", row=row, line=line)
    return page_response(page, "chain.html.jinja")


@router.get("/runs/{slug}/chains/{n}/raw")
def raw(request: Request, slug: str, n: int) -> Response:
    """Return the line of a chain as it stands in the file."""
    run, _ = open_run(request, slug)
    return Response(run.index.raw_line(n), media_type="text/plain; charset=utf-8")
