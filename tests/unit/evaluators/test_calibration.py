"""What each way to use the tools is worth in the sticker world: the gaps that a policy learns from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from statistics import mean

import cv2
import numpy as np
import pytest
from PIL import Image

from agentfly.datasets import EditTask, StickerWorld
from agentfly.errors import ToolError
from agentfly.evaluators import EditSample, ReferenceEvaluator
from agentfly.vision import EditParams, InpaintParams
from agentfly.vision.classical import classical_engines
from tests.values import as_image

pytestmark = pytest.mark.slow

ENGINES = classical_engines()
COUNT = 12


async def local(image: Image.Image, words: str, new: str, threshold: float, dilate: int) -> Image.Image:
    """What the auto-inpaint tool does: detect, dilate, inpaint."""
    found = await ENGINES.detector.detect(image, words, box_threshold=threshold, text_threshold=0.25)
    if not found:
        return image
    mask = np.maximum.reduce([np.asarray(detection.mask) for detection in found])
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * dilate + 1, 2 * dilate + 1))
    return await ENGINES.inpainter.inpaint(image, Image.fromarray(cv2.dilate(mask, kernel)), new, InpaintParams())


async def chain(task: EditTask, threshold: float = 0.6, dilate: int = 4, steps: int | None = None) -> Image.Image:
    image = as_image(task.images[0])
    for step in task.metadata["steps"][:steps]:
        image = await local(image, step["detect"], step["new"], threshold, dilate)
    return image


async def whole(task: EditTask) -> Image.Image:
    image = as_image(task.images[0])
    for step in task.metadata["steps"]:
        words = f"replace {step['detect']} by {step['new']}" if step["new"] else f"remove {step['detect']}"
        try:
            image = await ENGINES.editor.edit(image, words, EditParams())
        except ToolError:
            continue
    return image


async def wrong(task: EditTask) -> Image.Image:
    other = next(s for s in task.metadata["stickers"] if not s["is_target"])
    return await local(as_image(task.images[0]), f"{other['colour']} {other['shape']}", "", 0.6, 4)


def sample_of(task: EditTask, result: Image.Image) -> EditSample:
    source, target, mask = (as_image(image) for image in (task.images[0], task.target, task.mask))
    return EditSample(task.instruction, source, result, target, mask)


def scores(family: str, way: Callable[..., Awaitable[Image.Image]], **settings: float) -> list[float]:
    """Scores of a way to do the tasks of a family, train and held-out."""

    async def all_scores() -> list[float]:
        out = []
        for split in ("train", "heldout"):
            for index in range(COUNT):
                task = StickerWorld().task(index, split, family)
                result = await way(task, **settings)
                sample = sample_of(task, result)
                out.append((await ReferenceEvaluator().evaluate(sample)).value)
        return out

    return asyncio.run(all_scores())


@pytest.mark.parametrize("family", ["named", "look", "repair"])
def test_the_right_call_succeeds(family: str) -> None:
    values = scores(family, chain)
    assert mean(values) > 92
    assert mean(value >= 80 for value in values) >= 0.9


def test_the_right_call_replaces_and_does_two_steps() -> None:
    assert mean(scores("replace", chain)) > 90
    assert mean(scores("two_step", chain)) > 88


@pytest.mark.parametrize(
    ("dilate", "low", "high"), [(0, 40, 70), (2, 52, 85), (8, 75, 93), (16, 45, 75)], ids=["0", "2", "8", "16"]
)
def test_dilation_matters_smoothly(dilate: int, low: float, high: float) -> None:
    assert low < mean(scores("named", chain, dilate=dilate)) < high


@pytest.mark.parametrize(("wanted", "painted"), [("blue", "purple"), ("purple", "blue"), ("orange", "yellow")])
def test_a_neighbouring_colour_is_no_success(wanted: str, painted: str) -> None:
    """Where the old colour is far from both, most of the difference to the wanted image is gone, and yet."""

    async def repainted(task: EditTask) -> Image.Image:
        step = task.metadata["steps"][0]
        return await local(as_image(task.images[0]), step["detect"], step["new"].replace(wanted, painted), 0.6, 4)

    async def found() -> list[float]:
        values = []
        for index in range(60):
            task = StickerWorld().task(index, "train", "replace")
            if task.metadata["steps"][0]["new"].startswith(wanted):
                sample = sample_of(task, await repainted(task))
                values.append((await ReferenceEvaluator().evaluate(sample)).value)
        return values

    values = asyncio.run(found())
    assert len(values) >= 5
    assert max(values) < 80


def test_too_much_dilation_costs_more_where_something_is_drawn() -> None:
    assert mean(scores("replace", chain, dilate=8)) < 50


def test_a_threshold_that_takes_a_neighbour_fails() -> None:
    """Three quarters of the images have a sticker of the same shape."""
    right, loose = scores("named", chain), scores("named", chain, threshold=0.2)
    spoiled = [b for a, b in zip(right, loose, strict=True) if b < a - 1]
    assert len(spoiled) > 0.6 * len(right)
    assert mean(spoiled) < 40


def test_a_threshold_above_all_scores_changes_nothing() -> None:
    assert max(scores("named", chain, threshold=0.95)) == 0.0


def test_the_whole_image_editor_does_about_half() -> None:
    assert 35 < mean(scores("named", whole)) < 68


def test_the_wrong_sticker_is_worth_nothing() -> None:
    assert mean(scores("named", wrong)) < 5


def test_half_of_two_steps_is_worth_about_half() -> None:
    assert 30 < mean(scores("two_step", chain, steps=1)) < 58
