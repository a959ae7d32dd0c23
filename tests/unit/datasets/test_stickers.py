"""The sticker world: exact answers, no dependence on call order, splits that really differ."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from agentfly.datasets import FAMILIES, EditTask, StickerWorld, vocabulary
from agentfly.datasets.photos import PHOTOS, SPLITS, Split, load_photo
from agentfly.datasets.wording import SYNONYMS
from agentfly.errors import ConfigError
from agentfly.images import handle_of
from agentfly.vision.shapes import COLOURS
from tests.values import as_image

WORLD = StickerWorld()


def _tasks(split: Split, count: int = 60) -> list[EditTask]:
    return [WORLD.task(index, split) for index in range(count)]


@pytest.fixture(scope="module")
def tasks() -> list[EditTask]:
    return _tasks("train") + _tasks("heldout")


@pytest.fixture(scope="module")
def many() -> dict[str, list[EditTask]]:
    """Enough tasks to see every sentence and layout; small, because nobody looks at the images."""
    world = StickerWorld(84)
    return {split: [world.task(index, split) for index in range(250)] for split in SPLITS}


def _pixels(image: object) -> np.ndarray:
    assert isinstance(image, Image.Image)
    return np.asarray(image)


def _words(text: str) -> set[str]:
    return set(text.replace(".", " ").replace(",", " ").split())


def test_a_task_does_not_depend_on_what_was_made_before() -> None:
    alone = StickerWorld().task(7, "train", "replace", seed=3)
    busy = StickerWorld()
    for index in (3, 9, 1):
        busy.task(index, "heldout")
    again = busy.task(7, "train", "replace", seed=3)
    assert again.instruction == alone.instruction
    assert again.metadata == alone.metadata
    for one, two in zip(
        (*again.images, again.target, again.mask), (*alone.images, alone.target, alone.mask), strict=True
    ):
        assert handle_of(as_image(one)) == handle_of(as_image(two))


def test_seed_split_and_index_each_change_the_task() -> None:
    base = handle_of(as_image(WORLD.task(0, "train", "named").images[0]))
    others = (
        WORLD.task(0, "train", "named", seed=1),
        WORLD.task(1, "train", "named"),
        WORLD.task(0, "heldout", "named"),
    )
    assert base not in {handle_of(as_image(task.images[0])) for task in others}


def test_families_take_turns_and_name_the_task() -> None:
    assert [WORLD.task(index, "train").task_type for index in range(5)] == list(FAMILIES)


@pytest.mark.slow
def test_the_mask_is_exactly_what_must_change(tasks: list[EditTask]) -> None:
    for task in tasks:
        differs = (_pixels(task.images[0]) != _pixels(task.target)).any(axis=2)
        assert np.array_equal(_pixels(task.mask) == 255, differs)
        assert differs.any()


def test_changes_lie_within_the_targets(tasks: list[EditTask]) -> None:
    for task in tasks:
        mask = _pixels(task.mask).copy()
        for sticker in task.metadata["stickers"]:
            if sticker["is_target"]:
                x0, y0, x1, y1 = sticker["box"]
                assert mask[y0:y1, x0:x1].any()
                # The corners of a square in a circle may reach one pixel further.
                mask[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = 0
        assert not mask.any(), task.id


def test_removal_leaves_the_photograph() -> None:
    """The photograph must come back untouched, border included: next to the removed sticker nothing is left over."""
    task = WORLD.task(0, "heldout", "named")
    (target,) = [sticker for sticker in task.metadata["stickers"] if sticker["is_target"]]
    x0, y0, x1, y1 = target["box"]
    inside = _pixels(task.target)[y0:y1, x0:x1].reshape(-1, 3).astype(int)
    assert np.abs(inside - COLOURS[target["colour"]]).sum(axis=1).min() > 30


def test_stickers_keep_apart_and_inside_the_cell_of_their_place(tasks: list[EditTask]) -> None:
    rows = {"top": 0, "center": 1, "bottom": 2}
    columns = {"left": 0, "center": 1, "right": 2}
    for task in tasks:
        for sticker in task.metadata["stickers"]:
            words = sticker["place"].split()
            row, column = rows[words[0]], columns[words[-1]]
            x0, y0, x1, y1 = sticker["box"]
            # A whole-pixel box may reach one pixel further than the figure.
            assert column * 56 - 1 <= x0 < x1 <= (column + 1) * 56 + 1, task.id
            assert row * 56 - 1 <= y0 < y1 <= (row + 1) * 56 + 1, task.id


def test_one_sticker_is_clearly_the_largest(tasks: list[EditTask]) -> None:
    for task in tasks:
        sizes: dict[bool, list[int]] = {s["is_largest"]: [] for s in task.metadata["stickers"]}
        for s in task.metadata["stickers"]:
            x0, y0, x1, y1 = s["box"]
            sizes[s["is_largest"]].append((x1 - x0) * (y1 - y0))
        assert len(sizes[True]) == 1
        assert sizes[True][0] > 1.4 * max(sizes[False])


def test_colours_occur_once_and_shapes_repeat(tasks: list[EditTask]) -> None:
    repeats = 0
    for task in tasks:
        stickers = task.metadata["stickers"]
        assert len({s["colour"] for s in stickers}) == len(stickers)
        repeats += len({s["shape"] for s in stickers}) < len(stickers)
    assert repeats >= 0.6 * len(tasks)


def test_steps_name_the_targets(tasks: list[EditTask]) -> None:
    for task in tasks:
        targets = {f"{s['colour']} {s['shape']}" for s in task.metadata["stickers"] if s["is_target"]}
        steps = task.metadata["steps"]
        assert {step["detect"] for step in steps} == targets
        assert len(steps) == (2 if task.task_type == "two_step" else 1)
        for step in steps:
            assert bool(step["new"]) == (step["action"] == "replace")


def test_new_colours_are_not_in_the_image() -> None:
    for index in range(30):
        task = WORLD.task(index, "train", "replace")
        new = task.metadata["steps"][0]["new"].split()[0]
        assert new not in {s["colour"] for s in task.metadata["stickers"]}


def test_repair_names_a_unique_shape_by_a_word_that_is_not_the_detectors() -> None:
    for index in range(30):
        task = WORLD.task(index, "train", "repair")
        stickers = task.metadata["stickers"]
        (target,) = [s for s in stickers if s["is_target"]]
        assert sum(s["shape"] == target["shape"] for s in stickers) == 1
        said = task.metadata["said"]
        assert said in task.instruction
        assert set(said.split()) & set(SYNONYMS.values())


@pytest.mark.slow
def test_heldout_photographs_layouts_and_sentences_are_never_trained_on(many: dict[str, list[EditTask]]) -> None:
    def frames(split: str) -> set[str]:
        known = [*COLOURS, *SYNONYMS.values(), "circle", "square", "triangle", "star", "largest", "biggest"]
        out = set()
        for task in many[split]:
            words = (
                task.instruction.lower().replace(" in the top", " in the").replace(" in the bottom", " in the").split()
            )
            out.add(
                " ".join("_" if word.strip(".,") in [*known, "left", "right", "center"] else word for word in words)
            )
        return out

    def layouts(split: str) -> set[frozenset[str]]:
        return {frozenset(s["place"] for s in task.metadata["stickers"]) for task in many[split]}

    assert not layouts("train") & layouts("heldout")
    assert not frames("train") & frames("heldout")
    assert not {photo.file for photo in PHOTOS["train"]} & {photo.file for photo in PHOTOS["heldout"]}


@pytest.mark.slow
def test_every_heldout_word_is_trained_on_and_in_the_vocabulary(many: dict[str, list[EditTask]]) -> None:
    trained = set().union(*(_words(task.instruction) for task in many["train"]))
    heldout = set().union(*(_words(task.instruction) for task in many["heldout"]))
    covered = set().union(*(_words(sentence) for sentence in vocabulary()))
    assert heldout <= trained
    assert trained <= covered
    assert vocabulary() == vocabulary()


def test_sentences_are_short(tasks: list[EditTask]) -> None:
    assert max(len(task.instruction.split()) for task in tasks) <= 12


def test_metadata_is_json(tasks: list[EditTask]) -> None:
    for task in tasks:
        assert json.loads(json.dumps(task.metadata)) == task.metadata


def test_other_sides_scale() -> None:
    task = StickerWorld(112).task(0, "train", "named")
    assert as_image(task.images[0]).size == as_image(task.mask).size == (112, 112)
    boxes = [s["box"] for s in task.metadata["stickers"]]
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize(("split", "family"), [("test", None), ("train", "rename")])
def test_unknown_names_are_refused_with_the_valid_ones(split: str, family: str | None) -> None:
    with pytest.raises(ConfigError, match="Valid: "):
        WORLD.task(0, split, family)  # type: ignore[arg-type]  # names that there are not


def test_too_small_a_side_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 84"):
        StickerWorld(50)


def test_photographs_are_there_and_large_enough() -> None:
    for split in SPLITS:
        for photo in PHOTOS[split]:
            assert min(load_photo(photo.file).size) >= 168
            assert photo.licence in ("CC0", "public domain")
