"""Checks by a detector, on sticker images that the classical one can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.datasets import StickerWorld
from agentfly.errors import EvaluatorError, ToolError
from agentfly.evaluators import EditSample, Score, make_evaluator
from agentfly.evaluators.measured.detector_checked import DetectorCheckedEvaluator, nearest_colours
from agentfly.vision.base import Detection
from tests.values import as_image

EVALUATOR = make_evaluator({"evaluator": "detector", "detector": "classical", "box_threshold": 0.6})
REMOVED = StickerWorld().task(3, "heldout", "named")
REPLACED = StickerWorld().task(3, "heldout", "replace")
STICKER, CLEAN, MASK = (as_image(image) for image in (REMOVED.images[0], REMOVED.target, REMOVED.mask))
OLD, NEW = as_image(REPLACED.images[0]), as_image(REPLACED.target)


async def check(source: Image.Image, result: Image.Image | None, *checks: Mapping[str, Any], **fields: Any) -> Score:
    return await EVALUATOR.evaluate(EditSample("x", source, result, metadata={"checks": list(checks)}, **fields))


def words(task: Any) -> tuple[str, str]:
    step = task.metadata["steps"][0]
    return step["detect"], step["new"]


async def test_gone_is_gone() -> None:
    what, _ = words(REMOVED)
    score = await check(STICKER, CLEAN, {"gone": what})
    assert (score.value, score.aspects) == (100.0, {f"gone: {what}": 1.0})
    kept = await check(STICKER, STICKER, {"gone": what})
    assert kept.value == 0.0
    assert what in kept.feedback


async def test_what_was_never_there_cannot_be_gone() -> None:
    with pytest.raises(EvaluatorError, match="sees no"):
        await check(CLEAN, CLEAN, {"gone": words(REMOVED)[0]})


async def test_present_means_one_more_than_before() -> None:
    old, new = words(REPLACED)
    both = ({"gone": old}, {"present": new})
    assert (await check(OLD, NEW, *both)).value == 100.0
    assert (await check(OLD, OLD, *both)).value == 0.0
    assert (await check(NEW, NEW, {"present": new})).value == 0.0


async def test_only_what_lies_in_the_mask_counts() -> None:
    what, _ = words(REMOVED)
    elsewhere = Image.eval(MASK, lambda value: 255 - value)
    assert (await check(STICKER, CLEAN, {"gone": what}, mask=MASK)).value == 100.0
    with pytest.raises(EvaluatorError, match="sees no"):
        await check(STICKER, CLEAN, {"gone": what}, mask=elsewhere)


async def test_a_colour_is_that_of_the_object() -> None:
    _, new = words(REPLACED)
    colour, shape = new.split()
    right = await check(OLD, NEW, {"colour": colour, "of": new, "gone": None})
    assert right.value == 100.0
    other = "green" if colour != "green" else "red"
    assert (await check(OLD, NEW, {"colour": other, "of": new})).value < 20
    assert (await check(OLD, OLD, {"colour": colour, "of": new})).value == 0.0
    assert shape


def test_colours_are_called_what_people_call_them() -> None:
    pixels = {"black": (5, 5, 5), "white": (255, 255, 255), "grey": (120, 122, 119), "brown": (110, 70, 40)}
    pixels |= {"pink": (255, 160, 200), "blue": (0, 0, 255), "green": (0, 128, 0), "orange": (255, 140, 0)}
    names = nearest_colours(np.array(list(pixels.values()), np.uint8))
    assert dict(zip(pixels, names.tolist(), strict=True)) == {name: name for name in pixels}


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        (None, "names no checks"),
        ([], "names no checks"),
        ("gone", "names no checks"),
        ([{"removed": "a cat"}], "is no check"),
        ([{"gone": "a cat", "present": "a dog"}], "is no check"),
        ([{"gone": 3}], "is no check"),
        ([{"colour": "bleu", "of": "the car"}], "Did you mean 'blue'"),
    ],
)
async def test_a_task_without_sensible_checks_is_not_scored(checks: Any, message: str) -> None:
    with pytest.raises(EvaluatorError, match=message):
        await EVALUATOR.evaluate(EditSample("x", CLEAN, CLEAN, metadata={"checks": checks}))


async def test_a_detector_that_fails_gives_no_score() -> None:
    class Failing:
        name = "failing"

        async def detect(self, image: Image.Image, prompt: str, **_: float) -> list[Detection]:
            raise ToolError("out of memory")

    sample = EditSample("x", CLEAN, CLEAN, metadata={"checks": [{"gone": "a cat"}]})
    with pytest.raises(EvaluatorError, match="out of memory"):
        await DetectorCheckedEvaluator(Failing()).evaluate(sample)
    assert (await check(CLEAN, None, {"gone": "a cat"})).value == 0.0
