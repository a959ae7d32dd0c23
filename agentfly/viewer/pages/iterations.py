"""Runs of `agentfly generate` and of directors and generators: their rounds side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from agentfly.errors import ConfigError, ImageError
from agentfly.viewer.charts import Chart, Line, chart
from agentfly.viewer.links import Links, ServerLinks
from agentfly.viewer.pages.context import viewer_of
from agentfly.viewer.runs.folder import RunFolder
from agentfly.viewer.runs.generated import Attempt, GeneratedRun, image_file, read_record, records
from agentfly.viewer.web import Page, page_response
from agentfly.viewer.web.render import clip

router = APIRouter()

PREVIEW_SIDE = 512
PREVIEW_BYTES = 40_000
MOST_ROUNDS = 40  # on the page: the newest
_MOST_TEXT = 2000  # characters of a prompt
_MOST_RECORDS = 200
_TYPES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))
_STATUS = {
    "running": "still running, or interrupted",
    "threshold": "good enough",
    "max_iterations": "all iterations done",
    "max_loops": "all rounds done",
    "wall_clock": "out of time",
    "timeout": "out of time",
    "recursion_limit": "recursion limit reached",
    "error": "ended by a fault",
    "failed": "failed",
}


@dataclass(frozen=True)
class ShownAttempt:
    """An attempt, and its prompt in pieces: text, and True for words that the prompt before did not have."""

    attempt: Attempt
    prompt: tuple[tuple[str, bool], ...]


def page(run: RunFolder, links: Links, runs: tuple[RunFolder, ...] = (), name: str = "") -> Page:
    """Return the page of a run.

    Args:
        run: folder, in which several runs of directors and generators may be.
        links: addresses.
        runs: all runs of the viewer.
        name: of the record; the newest when empty.

    Raises:
        KeyError: there is no such record.
        ConfigError: it cannot be read.
    """
    known = records(run)
    name = name or next(iter(known), "")
    found = read_record(run.kind, known[name])
    values = {
        "found": found,
        "status": _STATUS.get(found.status, found.status),
        "records": list(known)[:_MOST_RECORDS],
        "rounds": list(zip(found.rounds, _shown(found), strict=True))[-MOST_ROUNDS:],
        "chart": score_chart(found),
    }
    return Page("Iterations", links, run, runs, "iterations", revision(run), values)


def revision(run: RunFolder) -> str:
    """Return what changes whenever a record does.

    Raises:
        ConfigError: the run is gone.
    """
    try:
        times = [path.stat().st_mtime_ns for path in records(run).values()]
    except OSError as fault:
        raise ConfigError(f"the run {str(run.path)!r} is gone") from fault
    return f"{len(times)}-{max(times, default=0)}"


def score_chart(run: GeneratedRun) -> Chart | None:
    """Return the scores by round, one line for each generator; None where there are fewer than two rounds."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for one in run.rounds:
        for attempt in one.attempts:
            if attempt.score is not None:
                lines.setdefault(attempt.who, []).append((float(one.number), attempt.score))
    several = len(run.rounds) > 1
    return chart("Score by round", [Line(who, points) for who, points in lines.items()], (0, 100)) if several else None


def marked(prompt: str, before: str | None) -> tuple[tuple[str, bool], ...]:
    """Return a prompt in pieces: text, and True for words that the prompt before did not have."""
    if before is None:
        return ((clip(prompt, _MOST_TEXT), False),)
    # By word, not by place: a comparison of sequences takes long for texts that repeat themselves.
    old = set(before.split())
    groups = itertools.groupby(clip(prompt, _MOST_TEXT).split(), lambda word: word not in old)
    return tuple((" ".join(words), new) for new, words in groups)


def _shown(run: GeneratedRun) -> list[list[ShownAttempt]]:
    before: dict[str, str] = {}
    rounds = []
    for one in run.rounds:
        rounds.append([ShownAttempt(a, marked(a.prompt, before.get(a.who))) for a in one.attempts])
        before |= {attempt.who: attempt.prompt for attempt in one.attempts}
    return rounds


def image_bytes(run: RunFolder, name: str, number: int) -> bytes:
    """Return an image of a record.

    Raises:
        KeyError: there is no such record.
        ImageError: there is no such image, or its file is none of the run's.
    """
    record: Path = records(run)[name]
    attempts: Sequence[Attempt] = read_record(run.kind, record).attempts
    if not 0 <= number < len(attempts) or not attempts[number].file:
        raise ImageError("there is no such image")
    return image_file(record, str(attempts[number].file), run.kind)


def media_type(data: bytes) -> str:
    """Return the type of an image by its first bytes.

    Raises:
        ImageError: it is none that browsers show.
    """
    for start, kind in _TYPES:
        if data.startswith(start) and (kind != "image/webp" or data[8:12] == b"WEBP"):
            return kind
    raise ImageError("the file is no image")


@router.get("/runs/{slug}/iterations")
def show(request: Request, slug: str, record: str = "") -> Response:
    """Return the page, or the overview of a run that has chains."""
    viewer, links = viewer_of(request), ServerLinks(slug)
    run = viewer[slug].run
    if not run.systems:
        return RedirectResponse(links.page(""))
    return page_response(page(run, links, tuple(v.run for v in viewer.runs.values()), record), "iterations.html.jinja")


@router.get("/runs/{slug}/made/{record}/{number}.webp")
def preview(request: Request, slug: str, record: str, number: int) -> Response:
    """Return a small image."""
    run = viewer_of(request)[slug]
    data = image_bytes(run.run, record, number)
    small = run.thumbnails.of_data(data, PREVIEW_SIDE, PREVIEW_BYTES)
    return Response(small, media_type="image/webp", headers={"Cache-Control": "no-cache"})


@router.get("/runs/{slug}/made/{record}/{number}")
def whole(request: Request, slug: str, record: str, number: int) -> Response:
    """Return an image as the run wrote it."""
    data = image_bytes(viewer_of(request)[slug].run, record, number)
    return Response(data, media_type=media_type(data), headers={"Cache-Control": "no-cache"})
