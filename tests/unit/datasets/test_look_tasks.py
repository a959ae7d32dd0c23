"""Tasks in which looking pays have one right answer, which the detector's words in their metadata lead to."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from agentfly.agents.tasks import edit_sample
from agentfly.datasets import LOOK_FAMILIES, EditTask, StickerWorld
from agentfly.datasets.photos import SPLITS
from agentfly.evaluators import ReferenceEvaluator
from agentfly.images import handle_of
from agentfly.tools.image_tools import make_mask
from agentfly.vision.base import InpaintParams
from agentfly.vision.classical.detector import ClassicalDetector
from agentfly.vision.classical.editor import ClassicalInpainter
from tests.values import as_image

WORLD = StickerWorld()


@pytest.fixture(scope="module", params=LOOK_FAMILIES)
def tasks(request: pytest.FixtureRequest) -> list[EditTask]:
    return [WORLD.task(index, split, request.param) for split in SPLITS for index in range(20)]


async def removed(image: Image.Image, words: str) -> Image.Image:
    found = await ClassicalDetector().detect(image, words, box_threshold=0.5, text_threshold=0.25)
    if not found:
        return image
    mask = make_mask([each.mask for each in found], 4, 0)
    return await ClassicalInpainter().inpaint(image, mask, "", InpaintParams())


def score(task: EditTask, words: list[str]) -> float:
    async def carried_out() -> float:
        image = as_image(task.images[0])
        for each in words:
            image = await removed(image, each)
        return (await ReferenceEvaluator().evaluate(edit_sample(task, image))).value

    return asyncio.run(carried_out())


def steps(task: EditTask) -> list[str]:
    return [str(step["detect"]) for step in task.metadata["steps"]]


@pytest.mark.slow
def test_a_task_does_not_depend_on_what_was_made_before(tasks: list[EditTask]) -> None:
    first = tasks[0]
    again = StickerWorld().task(0, "train", first.task_type)
    assert (again.instruction, again.metadata) == (first.instruction, first.metadata)
    for one, two in ((first.images[0], again.images[0]), (first.target, again.target), (first.mask, again.mask)):
        assert handle_of(as_image(one)) == handle_of(as_image(two))


@pytest.mark.slow
def test_the_right_edits_score_high_and_none_scores_nothing(tasks: list[EditTask]) -> None:
    right = [score(task, steps(task)) for task in tasks]
    assert np.mean(right) >= 99
    assert min(right) >= 75
    assert max(score(task, []) for task in tasks[:5]) == 0


def test_a_wrong_sticker_is_no_success(tasks: list[EditTask]) -> None:
    for task in tasks[:10]:
        stickers = task.metadata["stickers"]
        wrong = next(s for s in stickers if not s["is_target"])
        words = wrong["shape"] if task.task_type in ("pale", "most") else f"{wrong['colour']} {wrong['shape']}"
        assert score(task, [words if task.task_type != "tiny" else wrong["colour"]]) < 30


def test_the_mask_is_exactly_what_must_change(tasks: list[EditTask]) -> None:
    for task in tasks:
        differs = (np.asarray(as_image(task.images[0])) != np.asarray(as_image(task.target))).any(axis=2)
        assert np.array_equal(np.asarray(as_image(task.mask)) == 255, differs)


def test_each_target_lies_in_a_box_to_look_at(tasks: list[EditTask]) -> None:
    for task in tasks:
        for sticker in task.metadata["stickers"]:
            inside = any(
                x0 - 1 <= sticker["box"][0] and y0 - 1 <= sticker["box"][1] and x1 + 1 >= sticker["box"][2]
                for x0, y0, x1, y1 in task.metadata["look"]
            )
            assert inside or not sticker["is_target"]


def test_a_tiny_sticker_is_told_by_its_colour_alone() -> None:
    for index in range(20):
        stickers = WORLD.task(index, "train", "tiny").metadata["stickers"]
        assert len({s["shape"] for s in stickers}) == 1
        assert len({s["colour"] for s in stickers}) == len(stickers)
        # About four pixels of an image that is reduced to half its side.
        assert all(s["radius"] < 5 for s in stickers)


def test_the_words_of_pale_stickers_agree_but_for_the_shape() -> None:
    tints = set()
    for index in range(30):
        task = WORLD.task(index, "train", "pale")
        one, two = task.metadata["stickers"]
        assert one["colour"] == two["colour"]
        assert one["colour"] not in task.instruction
        assert one["shape"] != two["shape"]
        tints.add(task.instruction.split()[2])
    assert tints == {"reddish", "yellowish", "greenish", "bluish"}


def test_one_shape_is_the_most_common_and_all_of_it_goes() -> None:
    for index in range(30):
        stickers = WORLD.task(index, "heldout", "most").metadata["stickers"]
        (shape, often), (_, next_often) = Counter(s["shape"] for s in stickers).most_common(2)
        assert often > next_often
        assert [s["is_target"] for s in stickers] == [s["shape"] == shape for s in stickers]


def test_the_smallest_go_until_the_number_is_left() -> None:
    for index in range(30):
        task = WORLD.task(index, "train", "until")
        stickers = task.metadata["stickers"]
        shape = stickers[0]["shape"]
        ranked = sorted((s["radius"], s["is_target"]) for s in stickers if s["shape"] == shape)
        left = 2 if "two are left" in task.instruction else 1
        assert [gone for _, gone in ranked] == [True] * (3 - left) + [False] * left
        assert all(bigger > 1.2 * smaller for (smaller, _), (bigger, _) in pairwise(ranked))
