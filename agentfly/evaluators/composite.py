"""Combine several evaluators: their product, their minimum, or their weighted mean."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping
from typing import Any, Literal

from agentfly.errors import ConfigError, EvaluatorError, unknown_name
from agentfly.evaluators.base import (
    EditSample,
    Evaluator,
    Score,
    check_ready,
    check_sample,
    close_evaluator,
    objections,
)

How = Literal["product", "minimum", "weighted"]
HOWS: tuple[How, ...] = ("product", "minimum", "weighted")


class CompositeEvaluator:
    """Combines named parts. With v_i the value of part i over 100 and w_i its weight:

        product    100 * prod v_i^w_i
        minimum    100 * min v_i
        weighted   100 * sum w_i v_i / sum w_i

    Product and minimum leave nothing to gain from one part alone; a weighted mean does, so it is for tables more than
    for rewards. A part that gives no score leaves the whole without one: the reason names the part.

    Args:
        parts: evaluators by name.
        how: how they are combined.
        weights: of the parts, 1 where it is left out; not for the minimum.

    Raises:
        ConfigError: no parts, an unknown `how`, or weights that fit neither.
    """

    def __init__(
        self, parts: Mapping[str, Evaluator], how: How = "product", weights: Mapping[str, float] | None = None
    ) -> None:
        weights = dict(weights or {})
        if not parts:
            raise ConfigError("a composite evaluator needs at least one part")
        if how not in HOWS:
            raise ConfigError(unknown_name("way to combine", how, HOWS))
        if how == "minimum" and weights:
            raise ConfigError("the minimum has no weights: leave them out, or use how='product'")
        for name, weight in weights.items():
            if name not in parts:
                raise ConfigError(unknown_name("part in the weights", name, parts))
            if not (math.isfinite(weight) and weight > 0):
                raise ConfigError(f"the weight of {name!r} is {weight}: give a number above 0, or leave the part out")
        self.parts = dict(parts)
        self.how = how
        self.weights = {name: weights.get(name, 1.0) for name in parts}

    async def evaluate(self, sample: EditSample) -> Score:
        """Score by all parts at once; aspects are the parts (0 to 1) and, as "part/aspect", theirs.

        Raises:
            EvaluatorError: a part gives no score.
        """
        tasks = {name: asyncio.ensure_future(part.evaluate(sample)) for name, part in self.parts.items()}
        try:
            scores = {name: await _named(name, task) for name, task in tasks.items()}
        finally:
            for task in tasks.values():
                task.cancel()
            # A part that fails after another one must not be an exception that nobody has looked at.
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return self._combine(scores)

    async def check_ready(self) -> None:
        """Ask the parts; see `AsksOthers.check_ready`. The message names every part that is not ready."""
        await _ask_all({name: check_ready(part) for name, part in self.parts.items()})

    async def check_sample(self, sample: EditSample) -> None:
        """Ask the parts; see `NeedsOfSamples.check_sample`. The message names every part that lacks something."""
        await _ask_all({name: check_sample(part, sample) for name, part in self.parts.items()})

    async def close(self) -> None:
        """Free what the parts hold."""
        for part in self.parts.values():
            await close_evaluator(part)

    def _combine(self, scores: Mapping[str, Score]) -> Score:
        shares = {name: score.value / 100.0 for name, score in scores.items()}
        aspects = dict(shares)
        for name, score in scores.items():
            aspects.update({f"{name}/{aspect}": value for aspect, value in score.aspects.items()})
        weakest = min(shares, key=lambda name: shares[name])
        feedback = f"Weakest is {weakest} ({scores[weakest].value:.0f}): {scores[weakest].feedback}".rstrip(": ")
        return Score(100.0 * self._value(shares), feedback, aspects)

    def _value(self, shares: Mapping[str, float]) -> float:
        if self.how == "minimum":
            return min(shares.values())
        if self.how == "product":
            return math.prod(share ** self.weights[name] for name, share in shares.items())
        return sum(self.weights[name] * share for name, share in shares.items()) / sum(self.weights.values())


async def _ask_all(questions: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Ask all parts at once.

    Raises:
        EvaluatorError: some of them object.
    """
    if faults := await objections({f"part {name!r}": question for name, question in questions.items()}):
        raise EvaluatorError("; ".join(faults))


async def _named(name: str, task: asyncio.Future[Score]) -> Score:
    try:
        return await task
    except EvaluatorError as fault:
        # The kind of fault is kept: one that may pass is tried again.
        raise type(fault)(f"part {name!r}: {fault}") from fault
