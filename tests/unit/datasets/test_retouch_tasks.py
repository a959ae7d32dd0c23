"""Tasks whose answer is a number: the right one gives the target exactly, and scores fall with the distance from it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from PIL import Image, ImageOps

from agentfly.agents.tasks import edit_sample
from agentfly.datasets import RETOUCH_FAMILIES, EditTask, StickerWorld
from agentfly.datasets.photos import SPLITS
from agentfly.datasets.retouch_tasks import adjusted
from agentfly.evaluators import ReferenceEvaluator
from agentfly.images import handle_of
from tests.values import as_image

WORLD = StickerWorld()
NEAR = {"exposure": 0.1, "temperature": 5.0, "tint": 5.0}


@pytest.fixture(scope="module", params=RETOUCH_FAMILIES)
def tasks(request: pytest.FixtureRequest) -> list[EditTask]:
    return [WORLD.task(index, split, request.param) for split in SPLITS for index in range(20)]


def pixels(task: EditTask) -> np.ndarray:
    return np.asarray(as_image(task.images[0]))


def score(task: EditTask, factor: float, more: float = 0.0) -> float:
    """Score the adjustment by a multiple of the right amount, and `more` times a small amount."""
    (step,) = task.metadata["steps"]
    amount = step["amount"] * factor + more * NEAR[step["action"]]
    result = Image.fromarray(adjusted(pixels(task), step["action"], amount))
    return asyncio.run(ReferenceEvaluator().evaluate(edit_sample(task, result))).value


def test_a_task_does_not_depend_on_what_was_made_before(tasks: list[EditTask]) -> None:
    first = tasks[0]
    again = StickerWorld().task(0, "train", first.task_type)
    assert (again.instruction, again.metadata) == (first.instruction, first.metadata)
    for one, two in zip((*first.images, first.target), (*again.images, again.target), strict=True):
        assert handle_of(as_image(one)) == handle_of(as_image(two))


def test_the_right_amount_gives_the_target(tasks: list[EditTask]) -> None:
    for task in tasks:
        (step,) = task.metadata["steps"]
        right = adjusted(pixels(task), step["action"], step["amount"])
        assert np.array_equal(right, np.asarray(as_image(task.target)))
    assert min(score(task, 1) for task in tasks[:10]) == pytest.approx(100)


@pytest.mark.slow
def test_scores_fall_with_the_distance_from_the_right_amount(tasks: list[EditTask]) -> None:
    some = tasks[::4]
    for way in (1, -1):
        near, off, far = (np.mean([score(task, 1, way * more) for task in some]) for more in (1, 2, 5))
        assert 85 < near < 98
        assert 60 < off < 85
        assert far < 45
    assert 30 < np.mean([score(task, 0.5) for task in some]) < 60
    assert max(score(task, 0) for task in some) == 0
    assert max(score(task, -1) for task in some) == 0


@pytest.mark.slow
def test_the_words_state_the_exposure() -> None:
    for index in range(40):
        task = WORLD.task(index, "train", "exposure")
        (step,) = task.metadata["steps"]
        assert f"{abs(step['amount']):.1f} stop" in task.instruction
        assert ("brighter" in task.instruction) == (step["amount"] > 0)
        assert 0.3 <= abs(step["amount"]) <= 1.5


def test_the_second_image_is_the_wanted_one_mirrored() -> None:
    task = WORLD.task(0, "train", "match")
    assert len(task.images) == 2
    mirrored = np.asarray(ImageOps.mirror(as_image(task.images[1])))
    assert np.array_equal(mirrored, np.asarray(as_image(task.target)))
    assert not any(letter.isdigit() for letter in task.instruction)


@pytest.mark.slow
def test_a_cast_is_undone_up_to_clipping_and_rounding() -> None:
    """The white borders come back as white: a policy can read a cast off them."""
    directions = set()
    for index in range(40):
        task = WORLD.task(index, "train", "cast")
        (step,) = task.metadata["steps"]
        directions.add((step["action"], step["amount"] > 0))
        named = next((word for word in ("warm", "cold", "green", "magenta") if word in task.instruction), None)
        right = {"warm": ("temperature", -1), "cold": ("temperature", 1), "green": ("tint", 1), "magenta": ("tint", -1)}
        if named is None:
            assert "colour" in task.instruction
        else:
            assert right[named] == (step["action"], np.sign(step["amount"]))
        again = adjusted(np.asarray(as_image(task.target)), step["action"], -step["amount"])
        assert np.abs(again.astype(int) - pixels(task)).mean() < 3
    assert len(directions) == 4
