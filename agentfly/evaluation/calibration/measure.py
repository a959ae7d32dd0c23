"""Score the material of a calibration: each sample once, and the graded ones again in the opposite order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agentfly.aio import gather_or_cancel
from agentfly.errors import ConfigError, EvaluatorError, ImageError
from agentfly.evaluation.calibration.cases import Item, Material, Pair
from agentfly.evaluation.scoring import metered, score_with_usage
from agentfly.evaluators import GuardedEvaluator, GuardSettings, NotScored

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """One scoring of a sample.

    Attributes:
        value: 0 to 100; None where there is no score.
        reason: for a missing score.
        seconds: from the request to the score, waiting for a free place of the evaluator not included.
        cost: of the judges, at the prices of their settings.
        tokens: of the judges, in and out.
    """

    value: float | None
    reason: str = ""
    seconds: float = 0.0
    cost: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class Measurement:
    """All scorings of one evaluator.

    Attributes:
        label: of the evaluator.
        first: the scores by item, in the order of the material.
        again: further scorings of some items, the first of them in the opposite order.
        seconds: of the wall clock for all of them.
        in_flight: samples that were scored at once.
        compared: of an evaluator that must see results together: the scores of both of a pair by the ids of its first
            and second one, once as the pair stands and once swapped. Empty for those that score each alone.
    """

    label: str
    first: Mapping[str, Measured]
    again: Sequence[Mapping[str, Measured]]
    seconds: float
    in_flight: int
    compared: Sequence[Mapping[tuple[str, str], tuple[float, float] | None]] = ()

    @property
    def rounds(self) -> int:
        """Number of times that the pairs were scored."""
        return len(self.compared) or 1 + len(self.again)

    def value(self, item: str) -> float | None:
        """Return the score of an item; None where there is none."""
        found = self.first.get(item)
        return None if found is None else found.value

    def difference(self, pair: Pair, number: int = 0) -> float | None:
        """Return the score of the first of a pair less that of the second; None where one is missing.

        Args:
            pair: of the material.
            number: of the round, below `rounds`.
        """
        if self.compared:
            both = self.compared[number].get((pair.first, pair.second))
            return None if both is None else both[0] - both[1]
        scores = self.again[number - 1] if number else self.first
        one, other = scores.get(pair.first), scores.get(pair.second)
        if one is None or other is None or one.value is None or other.value is None:
            return None
        return one.value - other.value


async def measure(
    label: str,
    spec: Mapping[str, object],
    material: Material,
    *,
    repeats: int,
    in_flight: int,
    progress: OnProgress | None = None,
) -> Measurement:
    """Score the material with one evaluator.

    Args:
        label: of the evaluator.
        spec: for `agentfly.evaluators.make_evaluator`.
        material: the samples.
        repeats: further scorings of the samples that stand in a pair; every second one in the opposite order.
        in_flight: samples that are scored at once.
        progress: called with the number of scorings that are done, and of all.

    Raises:
        ConfigError: the evaluator cannot be made, or is set up wrongly.
    """
    made = metered(spec)
    evaluator = (
        made if isinstance(made, GuardedEvaluator) else GuardedEvaluator(made, GuardSettings(in_flight=in_flight))
    )
    paired = dict.fromkeys(name for pair in material.pairs for name in (pair.first, pair.second))
    again = [item for item in material.items if item.id in paired] if repeats else []
    total, done, begun = len(material.items) + repeats * len(again), 0, time.perf_counter()

    def count() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    try:
        first = await _scorings(evaluator, material.items, in_flight, count)
        compared = await _comparisons(evaluator, material, in_flight)
        rounds = [
            await _scorings(evaluator, again[:: -1 if number % 2 == 0 else 1], in_flight, count)
            for number in range(repeats)
        ]
    finally:
        await evaluator.close()
    return Measurement(label, first, rounds, time.perf_counter() - begun, in_flight, compared)


async def _comparisons(
    evaluator: GuardedEvaluator, material: Material, in_flight: int
) -> list[dict[tuple[str, str], tuple[float, float] | None]]:
    """Return the scores of all pairs, straight and swapped, by an evaluator that must see results together."""
    if not evaluator.relative:
        return []
    items, places = {item.id: item for item in material.items}, asyncio.Semaphore(in_flight)

    async def both(pair: Pair, *, swapped: bool) -> tuple[float, float] | None:
        names = [pair.first, pair.second]
        async with places:
            try:
                samples = [await asyncio.to_thread(items[name].make) for name in names]
                scores = await evaluator.evaluate_group(samples[::-1] if swapped else samples)
            except (ImageError, EvaluatorError) as fault:
                if isinstance(fault, ConfigError):
                    raise
                return None
        one, other = scores[::-1] if swapped else scores
        return None if isinstance(one, NotScored) or isinstance(other, NotScored) else (one.value, other.value)

    keys = [(pair.first, pair.second) for pair in material.pairs]
    rounds = []
    for swapped in (False, True):
        found = await gather_or_cancel(both(pair, swapped=swapped) for pair in material.pairs)
        rounds.append(dict(zip(keys, found, strict=True)))
    return rounds


async def _scorings(
    evaluator: GuardedEvaluator, items: Sequence[Item], in_flight: int, count: Callable[[], None]
) -> dict[str, Measured]:
    # Samples of large data sets are opened only when there is a place for them.
    places = asyncio.Semaphore(in_flight)

    async def one(item: Item) -> Measured:
        async with places:
            found = await _scoring(evaluator, item)
        count()
        return found

    found = await gather_or_cancel(one(item) for item in items)
    return {item.id: measured for item, measured in zip(items, found, strict=True)}


async def _scoring(evaluator: GuardedEvaluator, item: Item) -> Measured:
    try:
        sample = await asyncio.to_thread(item.make)
    except ImageError as fault:
        return Measured(None, str(fault))
    begun = time.perf_counter()
    score, usage = await asyncio.create_task(score_with_usage(evaluator, sample))
    seconds = time.perf_counter() - begun
    tokens = usage.prompt_tokens + usage.completion_tokens
    if isinstance(score, NotScored):
        return Measured(None, score.reason, seconds, usage.cost, tokens)
    return Measured(score.value, "", seconds, usage.cost, tokens)
