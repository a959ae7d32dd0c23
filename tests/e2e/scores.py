"""Evaluators for runs that only have to train, whatever they learn."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from agentfly.errors import EvaluatorError
from agentfly.evaluators import EditSample, NotScored, Score


class Drawn:
    """Evaluator with random scores: chains of a group get different rewards even if they are equal."""

    async def evaluate(self, sample: EditSample) -> Score:
        return Score(random.SystemRandom().uniform(0.0, 100.0))


class Dealt(Drawn):
    """Evaluator that deals the ranks of a group at random; a result alone gets none of them."""

    relative = True

    async def evaluate_group(self, samples: Sequence[EditSample]) -> list[Score | NotScored]:
        ranks = random.SystemRandom().sample(range(len(samples)), len(samples))
        return [Score(100.0 * rank / (len(samples) - 1), relative=True) for rank in ranks]


class DrawnLater(Drawn):
    """Evaluator that fails on the first results, like a judge that is still starting, and then finds some alike.

    Args:
        without: number of the results that it fails on.
        alike: number of results that get the same score after that, all of one task.
    """

    def __init__(self, without: int, alike: int) -> None:
        self._without, self._alike = without, alike
        self._task: str | None = None

    async def evaluate(self, sample: EditSample) -> Score:
        if self._without:
            self._without -= 1
            raise EvaluatorError("the judge is only starting")
        if self._alike and self._task in (None, sample.instruction):
            self._task = sample.instruction
            self._alike -= 1
            return Score(50.0)
        return await super().evaluate(sample)


class Fated:
    """Evaluator that scores a result by its pixels: equal chains get equal scores, and some results get none."""

    async def evaluate(self, sample: EditSample) -> Score:
        image = sample.source if sample.result is None else sample.result
        fate = hashlib.sha256(sample.instruction.encode() + image.tobytes()).digest()
        if fate[0] % 6 == 0:
            raise EvaluatorError("its pixels are against it")
        return Score(100.0 * fate[1] / 255)
