"""Rate: a person compares two results of a task, or scores one, without knowing whose they are."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from agentfly.serving.errors import RequestRefused, ServerFault
from agentfly.viewer.agreement import FEWEST, Rated, agreements
from agentfly.viewer.index import Filters
from agentfly.viewer.links import Links
from agentfly.viewer.opened import OpenRun, Viewer
from agentfly.viewer.pages.context import context_of, open_run, viewer_of
from agentfly.viewer.pages.posted import posted_json
from agentfly.viewer.rating_choice import Choice, Mode, Result, choose_pair, choose_single, matched, pools_of
from agentfly.viewer.ratings import MOST_WORDS, RatedChain, Rating, Ratings, clamp_seconds, rater_name, run_identity
from agentfly.viewer.web import page_response

router = APIRouter()

Posted = Annotated[dict[str, Any], Depends(posted_json)]


@dataclass(frozen=True)
class RateQuery:
    """What the URL of the page says.

    Attributes:
        mode: kind of verdict; None takes comparisons where there are any.
        other: slug of the run to compare with; "" for none.
        rater: name.
        filters: of the chains.
    """

    mode: Mode | None
    other: str
    rater: str
    filters: Filters

    @classmethod
    def read(cls, request: Request, slug: str) -> Self:
        """Return what a URL says; an unknown run or mode counts as none."""
        given = request.query_params
        other = given.get("other", "")
        mode: Mode | None = (
            "pair" if given.get("mode") == "pair" else "single" if given.get("mode") == "single" else None
        )
        known = other if other in viewer_of(request).runs and other != slug else ""
        return cls(mode, known, rater_name(given.get("rater", "")), Filters.read(given))

    def to_query(self, **changes: str) -> str:
        """Return the query of a URL with changes."""
        words = {"mode": self.mode or "", "other": self.other, "rater": self.rater} | changes
        chosen = urlencode({name: value for name, value in words.items() if value})
        return "&".join(filter(None, (self.filters.to_query(), chosen)))

    def hidden_fields(self) -> list[tuple[str, str]]:
        """Return the filters as fields of a form."""
        return parse_qsl(self.filters.to_query())

    def without_filters(self) -> str:
        """Return the query of a URL for all chains."""
        return replace(self, filters=Filters()).to_query()


@dataclass(frozen=True)
class Shown:
    """A result on the page.

    Attributes:
        thumb, image: addresses.
        sent: what the page sends back about it.
    """

    thumb: str
    image: str
    sent: dict[str, object]


@dataclass(frozen=True)
class Stage:
    """What the page shows.

    Attributes:
        mode: of the verdict.
        choice: the item, and how far the rater is.
        instruction: whole.
        source: the image that was edited.
        results: in the order in which they are shown; empty where nothing is left.
        modes: those for which there is something, rated or not.
    """

    mode: Mode
    choice: Choice
    instruction: str
    source: Shown | None
    results: tuple[Shown, ...]
    modes: tuple[Mode, ...]

    @property
    def item_json(self) -> str:
        """What the script of the page sends back with the verdict."""
        return json.dumps([shown.sent for shown in self.results])


def make_stage(
    viewer: Viewer, run: OpenRun, revisions: tuple[str, str], query: RateQuery, ratings: list[Rating]
) -> Stage:
    """Return what the page shows.

    Args:
        viewer: with all runs.
        run: of the page.
        revisions: of its index, and of that of the other run.
        query: of the URL.
        ratings: that the run has.
    """
    pools = pools_of(run, revisions[0], query.filters)
    pairs = [(pool, pool) for pool in pools]
    if query.other:
        pairs = matched(pools, pools_of(viewer[query.other], revisions[1], query.filters))
    compared, single = choose_pair(pairs, ratings, query.rater), choose_single(pools, ratings, query.rater)
    there: list[tuple[Mode, Choice]] = [("pair", compared), ("single", single)]
    modes = tuple(mode for mode, choice in there if choice.total)
    mode: Mode = query.mode or (modes[0] if modes else "pair")
    choice = compared if mode == "pair" else single
    if choice.item is None:
        return Stage(mode, choice, "", None, (), modes)
    first = choice.item.results[0]
    links = viewer[first.slug].links()
    source = Shown(links.thumb(first.part, choice.item.source), links.image(first.part, choice.item.source), {})
    instruction = viewer[first.slug].index.line(first.n).described_task().instruction
    results = tuple(_shown(result, viewer[result.slug].links()) for result in choice.item.results)
    return Stage(mode, choice, instruction, source, results, modes)


def _shown(result: Result, links: Links) -> Shown:
    rated = result.rated
    sent: dict[str, object] = {"slug": result.slug, "n": result.n, "chain": rated.chain, "image": rated.image}
    return Shown(links.thumb(result.part, rated.image), links.image(result.part, rated.image), sent)


@router.get("/runs/{slug}/rate")
def show(request: Request, slug: str) -> Response:
    """Return the page with the next thing to rate."""
    context = context_of(request, slug)
    run, state = context.run, context.state
    query = RateQuery.read(request, slug)
    other = open_run(request, query.other)[1].revision if query.other else ""
    kept = Ratings(run.run)
    ratings, damaged = kept.read()
    stage = make_stage(viewer_of(request), run, (state.revision, other), query, ratings)
    given = [rating for rating in ratings if not rating.skipped]
    page = context.page(
        "rate",
        "Rate",
        follows=False,
        query=query,
        stage=stage,
        kept=kept,
        damaged=damaged,
        given=len(given),
        agreements=agreements(list(Rated(viewer_of(request)).rows(given))) if len(given) >= FEWEST else [],
        fewest=FEWEST,
        most_words=MOST_WORDS,
        others=[opened.run for name, opened in viewer_of(request).runs.items() if name != slug],
        chains=state.chains,
    )
    return page_response(page, "rate.html.jinja")


@router.post("/runs/{slug}/rate")
def rate(request: Request, slug: str, posted: Posted) -> Response:
    """Keep a verdict."""
    run, _ = open_run(request, slug)
    rating = read_rating(viewer_of(request), slug, posted)
    kept = Ratings(run.run)
    try:
        kept.add(rating)
    except OSError as fault:
        raise _not_written(kept, fault) from fault
    return JSONResponse({"id": rating.id})


@router.post("/runs/{slug}/rate/undo")
def undo(request: Request, slug: str, posted: Posted) -> Response:
    """Take the last verdict of a rater back."""
    kept = Ratings(viewer_of(request)[slug].run)
    try:
        undone = kept.undo(rater_name(str(posted.get("rater", ""))))
    except OSError as fault:
        raise _not_written(kept, fault) from fault
    if undone is None:
        raise RequestRefused("there is nothing to undo", status=409, code="nothing_to_undo")
    return JSONResponse({"id": undone.id, "words": undone.words})


def _not_written(kept: Ratings, fault: OSError) -> ServerFault:
    problem = f"{str(kept.path)!r} cannot be written ({fault.strerror or fault})"
    return ServerFault(f"{problem}. Your verdict is still here: make room, then give it again", status=507)


def read_rating(viewer: Viewer, slug: str, posted: dict[str, Any]) -> Rating:
    """Return the rating that a page sent.

    Args:
        viewer: with all runs.
        slug: of the run whose page it was.
        posted: `results`, the left one first; `verdict` (left, right, tie or skip) or `score`; `words`; `rater`;
            `seconds`.

    Raises:
        RequestRefused: a value is wrong, or the results are not what they were when they were shown.
    """
    task, shown = _posted_results(viewer, slug, posted)
    # The order in the file must not depend on the sides, which were drawn.
    ordered = sorted(shown, key=lambda rated: (rated.run, rated.chain, rated.image))
    left = ordered.index(shown[0])
    verdict = posted.get("verdict")
    if verdict in ("better", "worse"):
        raise RequestRefused("a page says left or right", param="verdict")
    if verdict in ("left", "right"):
        verdict = "better" if (verdict == "left") == (left == 0) else "worse"
    try:
        return Rating(
            task,
            tuple(ordered),
            verdict,
            posted.get("score"),
            left,
            str(posted.get("words") or "").strip(),
            rater_name(str(posted.get("rater", ""))),
            clamp_seconds(posted.get("seconds")),
        )
    except ValueError as fault:
        raise RequestRefused(str(fault), code="invalid_rating") from fault


def _posted_results(viewer: Viewer, slug: str, posted: dict[str, Any]) -> tuple[str, list[RatedChain]]:
    """Return the task and the results that a page means."""
    results = posted.get("results")
    if not isinstance(results, list) or len(results) not in (1, 2) or not all(isinstance(r, dict) for r in results):
        raise RequestRefused("results must be a list of one or two results", param="results")
    if not any(result.get("slug") == slug for result in results):
        raise RequestRefused("none of the results is of this run", param="results")
    found = [_result(viewer, result) for result in results]
    if len({task for task, _ in found}) > 1:
        raise RequestRefused("the results are of different tasks", param="results")
    return found[0][0], [rated for _, rated in found]


def _result(viewer: Viewer, sent: dict[str, Any]) -> tuple[str, RatedChain]:
    """Return the task and the result that a page means."""
    gone = RequestRefused("the run has changed: reload the page", status=409, code="run_changed")
    run, n = viewer.runs.get(str(sent.get("slug"))), sent.get("n")
    if run is None or not isinstance(n, int) or not 0 <= n < 2**62:
        raise gone
    try:
        row = run.index.row(n)
    except KeyError:
        raise gone from None
    if row.id != sent.get("chain") or row.final is None or row.final != sent.get("image"):
        raise gone
    return row.task, RatedChain(run_identity(run.index.part(row.part).path), row.id, row.final)
