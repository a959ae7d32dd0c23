"""An evaluator for runs whose learning is not looked at, only that there is any."""

from __future__ import annotations

import random

from agentfly.evaluators import EditSample, Score


class Drawn:
    """Scores by lot: chains of a group get different rewards even where a policy does the same in all of them."""

    async def evaluate(self, sample: EditSample) -> Score:
        return Score(random.SystemRandom().uniform(0.0, 100.0))
