"""One chain: what the policy saw, did and got, and its calls run again."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from agentfly.aio import TimeLimitExceeded
from agentfly.errors import AgentFlyError
from agentfly.serving.errors import RequestError
from agentfly.viewer.chain.setup import read_setup
from agentfly.viewer.chain.shown import shots_of, show_chain
from agentfly.viewer.chain.view import view_chain
from agentfly.viewer.index import Filters
from agentfly.viewer.pages.context import Context, context_of, open_run, viewer_of
from agentfly.viewer.pages.posted import check_own_page
from agentfly.viewer.web import Page, page_response

router = APIRouter()

_TEXT = "text/plain; charset=utf-8"


def page(context: Context, n: int, filters: Filters) -> Page:
    """Return the page of a chain, between its neighbours in the table under filters."""
    # Without a server nothing can come later.
    shown = show_chain(context.run, n, context.settings.tokenizer, whole=not context.links.live)
    return context.page(
        "chains",
        f"Chain {shown.row.key[:60]}",
        follows=False,
        chain=shown,
        filters=filters,
        place=context.run.index.place(filters, n),
        shots=shots_of(shown),
    )


@router.get("/runs/{slug}/chains/{n}")
def show(request: Request, slug: str, n: int) -> Response:
    """Return the page of a chain, between its neighbours in the table that the URL's filters make."""
    filters = Filters.read(request.query_params)
    return page_response(page(context_of(request, slug), n, filters), "chain.html.jinja")


@router.get("/runs/{slug}/chains/{n}/turns/{number}")
def turn(request: Request, slug: str, n: int, number: int) -> Response:
    """Return one turn, for pages of long chains."""
    run, _ = open_run(request, slug)
    shown = show_chain(run, n, request.app.state.settings.tokenizer)
    if not 1 <= number <= len(shown.turns):
        raise KeyError(number)
    page = Page("", run.links(), run.run, values={"chain": shown, "turn": shown.turns[number - 1]})
    return page_response(page, "turn.html.jinja")


@router.get("/runs/{slug}/chains/{n}/text/{key}")
def text(request: Request, slug: str, n: int, key: int) -> Response:
    """Return a text that the page has cut."""
    run, _ = open_run(request, slug)
    whole = view_chain(run.index.line(n)).long
    if not 0 <= key < len(whole):
        raise KeyError(key)
    return Response(whole[key].encode("utf-8", "replace"), media_type=_TEXT)


@router.get("/runs/{slug}/chains/{n}/raw")
def raw(request: Request, slug: str, n: int) -> Response:
    """Return the line of a chain as it stands in the file."""
    run, _ = open_run(request, slug)
    return Response(run.index.raw_line(n), media_type=_TEXT)


@router.post("/runs/{slug}/chains/{n}/rerun")
async def rerun(request: Request, slug: str, n: int, turn: int | None = None, call: int | None = None) -> Response:
    """Run one call of a chain again, or all of them, and return what became of it as JSON."""
    try:
        check_own_page(request)
        run = viewer_of(request)[slug]
        trajectory = (await asyncio.to_thread(run.index.line, n)).trajectory
        row = await asyncio.to_thread(run.index.row, n)
        images = await asyncio.to_thread(run.images, row.part)
        setup = await asyncio.to_thread(read_setup, run.run)
        rerunner = await _rerunner(request)
        if turn is None or call is None:
            return JSONResponse(await rerunner.chain(trajectory, images, setup))
        return JSONResponse((await rerunner.call(trajectory, turn, call, images, setup)).to_dict())
    except RequestError as fault:
        return JSONResponse({"error": str(fault)}, fault.status)
    except KeyError:
        return JSONResponse({"error": "There is no such chain: load the page again."}, 404)
    except TimeLimitExceeded:
        limit = request.app.state.settings.rerun_seconds
        return JSONResponse({"error": f"It took longer than {limit:g} s a call, and was given up."}, 504)
    except AgentFlyError as fault:
        return JSONResponse({"error": str(fault)}, 409)


async def _rerunner(request: Request) -> Any:
    """Return what runs calls again; made at the first time, for it loads agents and engines."""
    state = request.app.state
    if not hasattr(state, "rerunner"):
        from agentfly.viewer.chain.rerun import Rerunner

        state.rerunner = Rerunner(state.settings)
    return state.rerunner
