"""Try: an image, an instruction, and the steps of an agent as they happen.

The routes are coroutines, since attempts belong to the event loop; what reads images is done in threads.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from itertools import groupby
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send

from agentfly.errors import ConfigError
from agentfly.images import load_image
from agentfly.serving.errors import RequestRefused
from agentfly.viewer.attempts import Attempts, Told
from agentfly.viewer.links import ServerLinks
from agentfly.viewer.pages.context import viewer_of
from agentfly.viewer.pages.posted import posted_json, read_body
from agentfly.viewer.samples import find_sample, package_thumbnail, samples
from agentfly.viewer.web import Page, page_response

router = APIRouter()

Posted = Annotated[dict[str, Any], Depends(posted_json)]
_HOUR = {"Cache-Control": "private, max-age=3600"}


def attempts_of(request: Request) -> Attempts:
    """Return the attempts of the viewer.

    Raises:
        ConfigError: it was started without a policy.
    """
    found: Attempts | None = request.app.state.attempts
    if found is None:
        raise ConfigError(
            "this viewer has no policy to try: start it with agentfly view --try --model FOLDER, or with --base-url"
        )
    return found


@router.get("/try")
def show(request: Request) -> Response:
    """Return the page."""
    attempts, viewer, session = attempts_of(request), viewer_of(request), request.app.state.session
    there = samples(viewer, session.run.slug)
    found = [(origin, list(group)) for origin, group in groupby(there, key=lambda sample: sample.origin)]
    values = {
        "samples": found,
        "limits": attempts.settings,
        "model": attempts.agent.model_name_or_path,
        "session": ServerLinks(session.run.slug),
        "folder": None if session.temporary else attempts.folder,
    }
    opened = tuple(run.run for run in viewer.runs.values())
    page = Page("Try", ServerLinks(""), runs=opened, here="try", values=values, can_try=True)
    return page_response(page, "try.html.jinja")


@router.get("/try/samples/{key}.webp")
def sample_thumbnail(request: Request, key: str) -> Response:
    """Return the thumbnail of an image of the package."""
    attempts_of(request)
    return Response(package_thumbnail(key), media_type="image/webp", headers=_HOUR)


@router.get("/try/images/{handle}.png")
def image(request: Request, handle: str) -> Response:
    """Return an image of an attempt, or one that was uploaded."""
    file = io.BytesIO()
    attempts_of(request).images(handle).get(handle).save(file, "PNG", compress_level=1)
    return Response(file.getvalue(), media_type="image/png", headers=_HOUR)


@router.post("/try/images")
async def upload(request: Request) -> Response:
    """Take an image, as the body of the request."""
    attempts = attempts_of(request)
    body = await read_body(request, attempts.settings.upload_bytes)
    if not body:
        raise RequestRefused("the file is empty: choose an image")
    return _kept(attempts, await run_in_threadpool(attempts.keep, body), "")


@router.post("/try/samples")
def take_sample(request: Request, posted: Posted) -> Response:
    """Take a sample."""
    attempts = attempts_of(request)
    sample = find_sample(viewer_of(request), str(posted.get("key", "")))
    return _kept(attempts, attempts.keep(load_image(sample.load())), sample.instruction)


def _kept(attempts: Attempts, handle: str, instruction: str) -> Response:
    kept = attempts.images(handle).get(handle)
    return JSONResponse(
        {"image": handle, "width": kept.width, "height": kept.height, "instruction": instruction},
        headers={"Cache-Control": "no-store"},
    )


@router.post("/try/runs")
async def start(request: Request, posted: Posted) -> Response:
    """Start an attempt, and return its messages, one in a line, as they come."""
    attempts = attempts_of(request)
    attempt = attempts.start(str(posted.get("image", "")), str(posted.get("instruction", "")))
    first = {"event": "accepted", "id": attempt.id}
    return Lines(attempts.listen(attempt), first, lambda: attempts.leave(attempt))


@router.post("/try/runs/{id_}/cancel")
async def cancel(request: Request, id_: str, posted: Posted) -> Response:
    """Cancel an attempt."""
    try:
        attempts_of(request).cancel(id_)
    except KeyError:
        raise RequestRefused("this attempt has ended", status=409) from None
    return JSONResponse({"id": id_})


@router.get("/try/chains/{id_}")
def find_chain(request: Request, id_: str) -> Response:
    """Return the addresses of the page of a finished attempt, and of the page where it is rated."""
    attempts_of(request)
    run = viewer_of(request)[request.app.state.session.run.slug]
    run.up_to_date(request.app.state.settings.first_seconds)
    for row in run.index.query("SELECT n, task FROM chains WHERE key = ?", id_):
        links = ServerLinks(run.run.slug)
        rate = links.page(f"rate?mode=single&task={row['task']}")
        return JSONResponse({"chain": links.chain(row["n"]), "rate": rate})
    raise KeyError(id_)


class Lines(Response):
    """A response of JSON lines that stops its source as soon as the client is gone.

    Args:
        source: of the lines after the first one.
        first: line.
        on_end: called when all is sent, or the client is gone.
    """

    media_type = "application/x-ndjson"

    def __init__(self, source: AsyncIterator[Told], first: Told, on_end: Callable[[], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._source, self._first, self._on_end = source, first, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(_client_gone(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._on_end()
            for task in (writing, leaving):
                task.cancel()
            await asyncio.wait({writing, leaving})
        if not writing.cancelled() and (fault := writing.exception()) is not None:
            raise fault

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send(_line(self._first))
        async for told in self._source:
            await send(_line(told))
        await send({"type": "http.response.body", "body": b""})


def _line(told: Told) -> Message:
    # Half a surrogate pair, as models sample it, is no UTF-8; in ASCII it is an escape.
    return {"type": "http.response.body", "body": f"{json.dumps(told)}\n".encode(), "more_body": True}


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
