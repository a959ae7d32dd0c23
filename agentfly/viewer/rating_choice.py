"""Choose what a person rates next: in an order that looks random and is the same each time, each task once at first.

Only results whose images were kept can be rated. Equal results of a task count once: the same pixels need no second
verdict.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from pathlib import Path
from typing import Literal

from agentfly.viewer.index import Filters
from agentfly.viewer.opened import OpenRun
from agentfly.viewer.ratings import MOST_ID, RatedChain, Rating, run_identity

Mode = Literal["pair", "single"]
_MOST_OF_TASK = 24  # results of a task in one run that are compared, which makes up to 276 pairs


@dataclass(frozen=True)
class Result:
    """A result that can be rated.

    Attributes:
        slug, n, part: of the chain in the viewer.
        rated: what the rating keeps of it.
    """

    slug: str
    n: int
    part: int
    rated: RatedChain


@dataclass(frozen=True)
class Pool:
    """The results of one task in one run, each image once.

    Attributes:
        task, source: id of the task, and handle of the image that was edited.
        results: at least one.
    """

    task: str
    source: str
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Item:
    """What is shown to a person: one result, or two with the left one first."""

    task: str
    source: str
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Choice:
    """The next item, and how far a rater is.

    Attributes:
        item: None where everything is rated.
        rated, skipped: verdicts of this rater among what can be rated here.
        done, total: tasks with a verdict, and all; of single results the results.
    """

    item: Item | None
    rated: int
    skipped: int
    done: int
    total: int


def pools_of(run: OpenRun, revision: str, filters: Filters) -> tuple[Pool, ...]:
    """Return the results of a run by task.

    Args:
        run: of the results.
        revision: of its index.
        filters: which chains; sorting and paging do not matter.
    """
    where, values = filters.where()
    return _pools(run, revision, where, tuple(values))


def matched(first: Sequence[Pool], second: Sequence[Pool]) -> list[tuple[Pool, Pool]]:
    """Return the pools of two runs that are about the same task."""
    others = {(pool.task, pool.source): pool for pool in second}
    return [(pool, others[key]) for pool in first if (key := (pool.task, pool.source)) in others]


def choose_single(pools: Sequence[Pool], ratings: Iterable[Rating], rater: str) -> Choice:
    """Return the result that a rater is to score next."""
    own = _own(ratings, rater, pair=False)
    items = [(pool, result) for pool in pools for result in pool.results]
    known = [own.get((pool.task, frozenset({result.rated.image}))) for pool, result in items]
    left = [entry for entry, rating in zip(items, known, strict=True) if rating is None]
    found = min(left, key=lambda entry: _shuffled(entry[0].task, entry[1].rated.image), default=None)
    item = None if found is None else Item(found[0].task, found[0].source, (found[1],))
    return _choice(item, known, len(items) - len(left), len(items))


def choose_pair(pools: Sequence[tuple[Pool, Pool]], ratings: Iterable[Rating], rater: str) -> Choice:
    """Return the two results that a rater is to compare next: of the task with the fewest verdicts so far.

    Args:
        pools: by task; twice the same pool where the results of one run are compared.
        ratings: all that there are.
        rater: name.
    """
    own = _own(ratings, rater, pair=True)
    best: tuple[tuple[int, str], Pool, list[tuple[Result, Result]]] | None = None
    known: list[Rating | None] = []
    done = total = 0
    for one, other in pools:
        pairs = _pairs(one, other)
        if not pairs:
            continue
        verdicts = [own.get((one.task, _images(pair))) for pair in pairs]
        left = [pair for pair, rating in zip(pairs, verdicts, strict=True) if rating is None]
        rated = len(pairs) - len(left)
        known += verdicts
        total, done = total + 1, done + (rated > 0)
        order = (rated, _shuffled(one.task, one.source))
        if left and (best is None or order < best[0]):
            best = (order, one, left)
    if best is None:
        return _choice(None, known, done, total)
    _, pool, left = best
    pair = min(left, key=lambda pair: _shuffled(*sorted(_images(pair))))
    swapped = int(_shuffled(rater, *sorted(_images(pair))), 16) % 2
    return _choice(Item(pool.task, pool.source, pair[::-1] if swapped else pair), known, done, total)


def _choice(item: Item | None, known: Sequence[Rating | None], done: int, total: int) -> Choice:
    found = [rating for rating in known if rating is not None]
    skipped = sum(rating.skipped for rating in found)
    return Choice(item, len(found) - skipped, skipped, done, total)


def _own(ratings: Iterable[Rating], rater: str, *, pair: bool) -> Mapping[tuple[str, frozenset[str]], Rating]:
    return {(r.task, r.images): r for r in ratings if r.rater == rater and r.pair == pair}


@lru_cache(maxsize=4096)
def _pairs(one: Pool, other: Pool) -> tuple[tuple[Result, Result], ...]:
    """Return the pairs of different images, of two runs or of one."""
    if one is other:
        return tuple(combinations(one.results, 2))
    different = (pair for pair in product(one.results, other.results) if len(_images(pair)) == 2)
    return tuple({_images(pair): pair for pair in different}.values())


def _images(pair: tuple[Result, Result]) -> frozenset[str]:
    return frozenset(result.rated.image for result in pair)


def _shuffled(*key: str) -> str:
    """Return a number in hex that orders keys as if at random."""
    return hashlib.blake2b("\0".join(key).encode("utf-8", "replace"), digest_size=8).hexdigest()


@lru_cache(maxsize=8)
def _pools(run: OpenRun, revision: str, where: str, values: tuple[object, ...]) -> tuple[Pool, ...]:
    rows = run.index.query(
        "SELECT n, part, id, task, source, final FROM chains"
        f" WHERE {where} AND final IS NOT NULL AND source IS NOT NULL"
        " AND length(task) BETWEEN 1 AND ? ORDER BY n",
        *values,
        MOST_ID,
    )
    parts = {part: run.index.part(part) for part in {row["part"] for row in rows}}
    kept = {number: _handles(part.images) for number, part in parts.items()}
    runs = {number: run_identity(part.path) for number, part in parts.items()}
    found: dict[tuple[str, str], dict[str, Result]] = {}
    for row in rows:
        part, final = row["part"], row["final"]
        if final in kept[part] and row["source"] in kept[part]:
            try:
                rated = RatedChain(runs[part], row["id"], final)
            except ValueError:  # no writer of ours makes such an id
                continue
            results = found.setdefault((row["task"], row["source"]), {})
            results.setdefault(final, Result(run.run.slug, row["n"], part, rated))
    return tuple(Pool(*key, _some(results.values())) for key, results in found.items())


def _some(results: Iterable[Result]) -> tuple[Result, ...]:
    """Return at most so many of the results, chosen as if at random."""
    ordered = sorted(results, key=lambda result: _shuffled(result.rated.image))
    return tuple(ordered[:_MOST_OF_TASK])


def _handles(folder: Path) -> set[str]:
    """Return the handles of the images in a folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name.removesuffix(".png") for entry in entries}
    except OSError:
        return set()
