"""Score the material of a calibration: each sample once, and the graded ones again in the opposite order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agentfly.aio import gather_or_cancel
from agentfly.errors import ImageError
from agentfly.evaluation.calibration.cases import Item, Material
from agentfly.evaluation.scoring import metered, score_with_usage
from agentfly.evaluators import GuardedEvaluator, GuardSettings, NotScored, check_ready

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
    """

    label: str
    first: Mapping[str, Measured]
    again: Sequence[Mapping[str, Measured]]
    seconds: float
    in_flight: int

    def value(self, item: str) -> float | None:
        """Return the score of an item; None where there is none."""
        found = self.first.get(item)
        return None if found is None else found.value


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
        EvaluatorError: a server that it asks does not answer.
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
        await check_ready(evaluator)
        first = await _scorings(evaluator, material.items, in_flight, count)
        rounds = [
            await _scorings(evaluator, again[:: -1 if number % 2 == 0 else 1], in_flight, count)
            for number in range(repeats)
        ]
    finally:
        await evaluator.close()
    return Measurement(label, first, rounds, time.perf_counter() - begun, in_flight)


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
