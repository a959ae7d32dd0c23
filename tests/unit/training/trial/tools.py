"""Tools and rewards of a user's, named by the recipes of the tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentfly.agents.reward_function import reward
from agentfly.errors import ToolError
from agentfly.evaluators import EditSample, Score
from agentfly.tools import tool


class Brightest:
    """Ranks the results of a task by their brightness."""

    relative = True

    async def evaluate(self, sample: EditSample) -> Score:
        return Score(70.0)

    async def evaluate_group(self, samples: Sequence[EditSample]) -> list[Score]:
        light = [float(np.asarray(sample.result).mean()) for sample in samples]
        return [Score(100.0 * sum(one > other for other in light) / (len(light) - 1), relative=True) for one in light]


@tool
def count_to(number: int) -> str:
    """Count.

    Args:
        number: where to stop, at most 3.
    """
    if number > 3:
        raise ToolError("I can only count to 3: give a smaller number")
    return " ".join(str(n) for n in range(1, number + 1))


@reward
def by_wish(score: float, wanted: str) -> float:
    """A reward that needs a column which the stickers do not have."""
    return score / 100 if wanted else 0.0


@reward
def by_words(prediction: str) -> dict[str, float]:
    """The reward says how many words the answer has; without an answer there is none."""
    if not prediction:
        raise ValueError("there is no answer to count")
    return {"reward": len(prediction.split()) / 10, "words": float(len(prediction.split()))}
