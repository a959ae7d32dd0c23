"""An evaluator for runs whose learning is not looked at, only that there is any."""

from __future__ import annotations

import random

from agentfly.errors import EvaluatorError
from agentfly.evaluators import EditSample, Score


class Drawn:
    """Scores by lot: chains of a group get different rewards even where a policy does the same in all of them."""

    async def evaluate(self, sample: EditSample) -> Score:
        return Score(random.SystemRandom().uniform(0.0, 100.0))


class DrawnLater(Drawn):
    """Cannot score the first results, as a judge that is only starting.

    Args:
        without: number of the results.
    """

    def __init__(self, without: int) -> None:
        self._without = without

    async def evaluate(self, sample: EditSample) -> Score:
        if self._without:
            self._without -= 1
            raise EvaluatorError("the judge is only starting")
        return await super().evaluate(sample)
