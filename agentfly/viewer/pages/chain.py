"""One chain: what the policy saw, did and got."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from agentfly.viewer.pages.context import Context, context_of, open_run
from agentfly.viewer.web import Page, page_response

router = APIRouter()


def page(context: Context, n: int) -> Page:
    """Return the page of a chain."""
    index = context.run.index
    row = index.row(n)
    return context.page("chains", f"Chain {row.key}", follows=False, row=row, line=index.line(n))


@router.get("/runs/{slug}/chains/{n}")
def show(request: Request, slug: str, n: int) -> Response:
    """Return the page of a chain."""
    return page_response(page(context_of(request, slug), n), "chain.html.jinja")


@router.get("/runs/{slug}/chains/{n}/raw")
def raw(request: Request, slug: str, n: int) -> Response:
    """Return the line of a chain as it stands in the file."""
    run, _ = open_run(request, slug)
    return Response(run.index.raw_line(n), media_type="text/plain; charset=utf-8")
