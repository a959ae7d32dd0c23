"""Records: a line reads back equal, and images are found again by their handles."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from agentfly.agents import StopReason, edit_sample
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.datasets import EditTask
from agentfly.errors import ImageError
from agentfly.evaluation import TaskFacts, TaskRecord
from agentfly.evaluators import NotScored, Score
from agentfly.evaluators.judge.settings import JudgeUsage
from agentfly.images import ImageStore
from tests.unit.evaluation.agents import record, solved, square, task


def test_a_record_reads_back_equal() -> None:
    store = ImageStore()
    facts = TaskFacts.keep(task(1, mask=square(255).convert("L"), metadata={"turn": 2}), store)
    scores: dict[str, Score | NotScored] = {"a": Score(71.5, "näher", {"x": 0.5}), "b": NotScored("no key")}
    made = TaskRecord(facts, solved(task(1), store), scores, {"a": JudgeUsage(samples=1, cost=0.25)})
    assert TaskRecord.of(TrajectoryLine.from_dict(json.loads(made.to_json()))) == made
    assert (made.value("a"), made.value("b"), made.value("c")) == (71.5, None, None)


def test_the_sample_has_the_images_of_the_task() -> None:
    store = ImageStore()
    facts = TaskFacts.keep(task(3), store)
    sample = facts.sample(store, store.put(square(7)))
    levels = [image.getpixel((0, 0)) for image in (sample.source, sample.result, sample.target) if image]
    assert levels == [(103,) * 3, (7,) * 3, (33,) * 3]
    with pytest.raises(ImageError, match="source image is not known"):
        TaskFacts.without_images(task(3)).sample(store, None)


def test_a_mask_is_kept_in_our_form_and_a_photograph_is_none() -> None:
    store = ImageStore()
    facts = TaskFacts.keep(task(1, mask=square(1).convert("L")), store)
    assert store.get(str(facts.mask)).getextrema() == (255, 255)
    noise = Image.fromarray(np.random.default_rng(0).integers(1, 256, (64, 64, 3), dtype=np.uint8))
    for read in (lambda: TaskFacts.keep(task(1, mask=noise), store), lambda: edit_sample(task(1, mask=noise), None)):
        with pytest.raises(ImageError, match="colour image, not a mask"):
            read()


def test_the_fingerprint_tells_words_and_images_apart() -> None:
    store = ImageStore()
    prints = {
        TaskFacts.keep(one, store).fingerprint
        for one in (
            task(1),
            task(1, target=None),
            task(1, images=(square(5),)),
            EditTask("t1", "Other words.", (square(101),), square(91)),
        )
    }
    assert len(prints) == 4


def test_a_fault_is_a_failed_record_and_a_limit_is_not() -> None:
    assert record("t", 5.0, stop_reason=StopReason.BACKEND_ERROR).failed
    assert not record("t", 5.0, stop_reason=StopReason.WALL_CLOCK).failed
