"""Scoring: every sample once, paired ones again, and a pair together where the evaluator asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from agentfly.errors import ImageError
from agentfly.evaluation.calibration.cases import Item, Material, Pair
from agentfly.evaluation.calibration.measure import measure
from agentfly.evaluators import EditSample, Score
from agentfly.evaluators.base import NotScored

SEEN: list[str] = []


class Noting:
    """Scores by the name of the task, and notes the order."""

    async def evaluate(self, sample: EditSample) -> Score:
        SEEN.append(sample.instruction)
        return Score(float(len(SEEN)))


class Comparing(Noting):
    """Prefers whichever result of a group comes first."""

    relative = True

    async def evaluate_group(self, samples: Sequence[EditSample]) -> list[Score | NotScored]:
        return [Score(100.0 if place == 0 else 0.0) for place in range(len(samples))]


def item(name: str) -> Item:
    image = Image.new("RGB", (8, 8))
    return Item(name, "graded", "g", name, lambda: EditSample(name, image, image))


def unreadable() -> EditSample:
    raise ImageError("it is gone")


MATERIAL = Material(
    [item("a"), item("b"), item("c"), Item("d", "people", "h", "d", unreadable)], [Pair("a", "b", 1.0, "s", "k", "g")]
)


async def test_the_paired_samples_come_again_in_the_opposite_order() -> None:
    SEEN.clear()
    told: list[tuple[int, int]] = []
    spec = {"evaluator": f"{__name__}:Noting"}
    found = await measure(
        "e", spec, MATERIAL, repeats=2, in_flight=1, progress=lambda done, total: told.append((done, total))
    )
    assert SEEN == ["a", "b", "c", "b", "a", "a", "b"]
    assert found.first["d"].reason == "it is gone"
    assert [found.difference(MATERIAL.pairs[0], number) for number in range(found.rounds)] == [-1.0, 1.0, -1.0]
    assert told[-1] == (8, 8)


async def test_an_evaluator_that_must_see_results_together_gets_each_pair_and_its_swap() -> None:
    found = await measure("e", {"evaluator": f"{__name__}:Comparing"}, MATERIAL, repeats=1, in_flight=2)
    assert [found.difference(MATERIAL.pairs[0], number) for number in range(found.rounds)] == [100.0, -100.0]
