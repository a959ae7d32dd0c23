"""The server of the viewer: pages, images, and the headers and errors of both."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from agentfly.errors import AgentFlyError, ImageError
from agentfly.serving.errors import AsciiJSON, RequestError
from agentfly.viewer.attempts import Session
from agentfly.viewer.links import ServerLinks
from agentfly.viewer.opened import Viewer
from agentfly.viewer.pages import chain, chains, compare, group, iterations, overview, rate, runs, try_
from agentfly.viewer.settings import ViewerSettings
from agentfly.viewer.web import Page, page_response
from agentfly.viewer.web.render import STATIC

logger = logging.getLogger(__name__)

# Pages load from this server alone, run no script but its files, and are shown in no other site's frame.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src 'self' data: blob:",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# An image never changes under its handle.
_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
_PAGES = (runs, overview, chains, chain, group, compare, iterations, rate, try_)
ROUTERS: tuple[APIRouter, ...] = tuple(page.router for page in _PAGES)

files = APIRouter()


@files.get("/runs/{slug}/images/{part}/{handle}.png")
def image(request: Request, slug: str, part: int, handle: str) -> Response:
    """Return an image in full size."""
    store = request.app.state.viewer[slug].images(part)
    path: Path | None = store.path(handle)
    if path is None or not path.is_file():
        raise ImageError(f"the image {handle} was not kept")
    return FileResponse(path, media_type="image/png", headers=_FOREVER)


@files.get("/runs/{slug}/thumbs/{part}/{handle}.webp")
def thumbnail(request: Request, slug: str, part: int, handle: str) -> Response:
    """Return a thumbnail."""
    run = request.app.state.viewer[slug]
    return Response(run.thumbnails.get(handle, run.images(part)), media_type="image/webp", headers=_FOREVER)


@files.get("/runs/{slug}/revision")
def revision(request: Request, slug: str) -> JSONResponse:
    """Return what changes whenever the run does."""
    if (run := request.app.state.viewer[slug].run).systems:
        return JSONResponse({"revision": iterations.revision(run)}, headers={"Cache-Control": "no-store"})
    state = request.app.state.viewer[slug].up_to_date(request.app.state.settings.first_seconds)
    found = {"revision": state.revision, "chains": state.chains, "complete": state.complete}
    return JSONResponse(found, headers={"Cache-Control": "no-store"})


def create_app(viewer: Viewer, settings: ViewerSettings | None = None, session: Session | None = None) -> FastAPI:
    """Return the application.

    Args:
        viewer: the runs; closed when the application ends.
        settings: of the server; None for the defaults.
        session: for the page Try; closed likewise. Its run is among those of the viewer.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if session is not None:
            await session.attempts.close()
        viewer.close()
        if (rerunner := getattr(app.state, "rerunner", None)) is not None:
            await rerunner.close()

    app = FastAPI(title="agentfly viewer", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.viewer, app.state.settings = viewer, settings or ViewerSettings()
    app.state.session, app.state.attempts = session, None if session is None else session.attempts
    for router in (*ROUTERS, files):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_api_route("/favicon.ico", lambda: RedirectResponse("/static/favicon.svg"), include_in_schema=False)

    @app.middleware("http")
    async def add_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    for kind in (AgentFlyError, OSError, KeyError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _error_page)
    return app


async def _error_page(request: Request, fault: Exception) -> Response:
    """Return a fault as a page; those that are bugs are logged."""
    status, words = _described(fault)
    if status == 500:
        logger.error("a page failed", exc_info=fault)
    if request.method == "POST" or request.url.path.endswith((".png", ".webp", "/revision")):
        return AsciiJSON({"error": words}, status, headers=HEADERS)
    opened = tuple(run.run for run in request.app.state.viewer.runs.values())
    page = Page("Nothing to show", ServerLinks(""), runs=opened, values={"words": words})
    response = page_response(page, "error.html.jinja", status)
    response.headers.update(HEADERS)
    return response


def _described(fault: Exception) -> tuple[int, str]:
    if isinstance(fault, RequestValidationError):
        return 404, "There is no such page: the address has a word where it needs a number."
    if isinstance(fault, HTTPException):
        return fault.status_code, "There is no such page." if fault.status_code == 404 else str(fault.detail)
    if isinstance(fault, RequestError):
        return fault.status, str(fault)
    if isinstance(fault, (AgentFlyError, OSError)):
        return 404, str(fault)
    if isinstance(fault, KeyError):
        return 404, "There is no such run, or no such chain in it."
    return 500, f"{type(fault).__name__}: see the log of the viewer."
