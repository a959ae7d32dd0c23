"""The first page: the runs that were named on the command line, and how far each is."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from functools import lru_cache

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from agentfly.errors import AgentFlyError
from agentfly.viewer.index.index import State
from agentfly.viewer.links import ServerLinks
from agentfly.viewer.opened import OpenRun, Viewer
from agentfly.viewer.overview.build import KINDS
from agentfly.viewer.overview.progress import Progress, progress_of, progress_of_images
from agentfly.viewer.pages.context import can_try, viewer_of
from agentfly.viewer.runs.folder import RunFolder
from agentfly.viewer.runs.notices import LogNotices
from agentfly.viewer.web import Page, page_response

router = APIRouter()

_TURN = 0.1  # seconds for the index of one run


@dataclass(frozen=True)
class RunRow:
    """A run in the list.

    Attributes:
        run: the run.
        address: of its first page.
        kind: in words.
        chains: that were read; None where there are none to count.
        progress: None where it is not known yet.
        problem: why it cannot be shown; "" where it can.
    """

    run: RunFolder
    address: str
    kind: str
    chains: int | None = None
    progress: Progress | None = None
    problem: str = ""


def rows_of(viewer: Viewer, seconds: float) -> tuple[RunRow, ...]:
    """Return all runs. Those that had no turn within so many seconds are shown as far as they were read before."""
    due = time.monotonic() + seconds
    opened = list(viewer.runs.values())
    # Another run is the first each time, so that many slow ones have their turns, too.
    first = int(time.time()) % max(1, len(opened))
    rows = {run.run.slug: _row(run, due) for run in opened[first:] + opened[:first]}
    return tuple(rows[slug] for slug in viewer.runs)


def _row(opened: OpenRun, due: float) -> RunRow:
    run = opened.run
    row = RunRow(run, ServerLinks(run.slug).page(""), KINDS.get(run.kind, run.kind))
    try:
        return _read(opened, row, min(_TURN, due - time.monotonic()))
    except (AgentFlyError, OSError) as fault:
        return replace(row, problem=str(fault))


def _read(opened: OpenRun, row: RunRow, seconds: float) -> RunRow:
    if opened.run.systems:
        return replace(row, progress=progress_of_images(opened.run))
    if seconds > 0:
        state = opened.up_to_date(seconds)
    elif opened.index.path.exists():
        state = opened.index.state()
    else:
        return row
    progress = _progress(opened, state, opened.notices(), int(time.time()) // 60)
    return replace(row, chains=state.chains, progress=progress)


@lru_cache(maxsize=256)
def _progress(opened: OpenRun, state: State, logs: LogNotices, minute: int) -> Progress:
    """Return how far a run is, which is looked for once a minute where none of its files changes."""
    return progress_of(opened, state, logs)


def _revision(rows: tuple[RunRow, ...]) -> str:
    return hashlib.sha256(repr(rows).encode("utf-8", "replace")).hexdigest()[:16]


@router.get("/")
def show(request: Request) -> Response:
    """Return the list of runs, or the overview where there is one run."""
    viewer = viewer_of(request)
    opened = tuple(run.run for run in viewer.runs.values())
    if len(opened) == 1:
        # The only run of a viewer that was started without one is that of its attempts.
        return RedirectResponse("/try" if can_try(request) else ServerLinks(opened[0].slug).page(""))
    rows = rows_of(viewer, request.app.state.settings.first_seconds)
    page = Page(
        "Runs",
        ServerLinks(""),
        runs=opened,
        revision=_revision(rows),
        poll="/revision",
        values={"rows": rows},
        can_try=can_try(request),
    )
    return page_response(page, "runs.html.jinja")


@router.get("/revision")
def revision(request: Request) -> JSONResponse:
    """Return what changes whenever the list does."""
    rows = rows_of(viewer_of(request), request.app.state.settings.first_seconds)
    return JSONResponse({"revision": _revision(rows)}, headers={"Cache-Control": "no-store"})
