"""The families in which looking or retouching pays, beside the five: their names, splits and sentences."""

from __future__ import annotations

import json
import re

import pytest

from agentfly.datasets import (
    ALL_FAMILIES,
    FAMILIES,
    LOOK_FAMILIES,
    RETOUCH_FAMILIES,
    EditTask,
    StickerWorld,
    load_tasks,
    vocabulary,
)
from agentfly.datasets.photos import SPLITS
from agentfly.datasets.wording import CASTS, TINTS
from agentfly.errors import ConfigError
from agentfly.vision.shapes import SHAPES

MORE = (*LOOK_FAMILIES, *RETOUCH_FAMILIES)


@pytest.fixture(scope="module")
def many() -> dict[str, list[EditTask]]:
    """Enough tasks to see every sentence and layout; small, because nobody looks at the images."""
    world = StickerWorld(84)
    return {split: [world.task(n, split, family) for family in MORE for n in range(80)] for split in SPLITS}


def _words(text: str) -> set[str]:
    return set(text.lower().replace(", ", " ").rstrip(".").split())


def _frame(text: str) -> str:
    """A sentence without the words that tasks differ in."""
    named = "|".join([*TINTS, *CASTS, "colour", *(f"{shape}s" for shape in SHAPES)])
    text = re.sub(rf"\b({named})\b|\d\.\d stops?", "_", text.lower())
    return re.sub(r"(top|bottom) (left|right)|center", "_", re.sub(r"two are|one is|brighter|darker", "_", text))


def test_the_default_families_are_those_of_the_shipped_policy() -> None:
    assert FAMILIES == ("named", "replace", "look", "two_step", "repair")
    assert {StickerWorld(84).task(index, "train").task_type for index in range(10)} == set(FAMILIES)
    assert set(ALL_FAMILIES) == {*FAMILIES, *MORE}
    assert len(ALL_FAMILIES) == len(FAMILIES) + len(MORE)


@pytest.mark.slow
def test_heldout_layouts_and_sentences_are_never_trained_on(many: dict[str, list[EditTask]]) -> None:
    def layouts(split: str) -> set[frozenset[str]]:
        return {frozenset(s["place"] for s in task.metadata["stickers"]) for task in many[split]}

    assert not layouts("train") & layouts("heldout")
    for family in MORE:
        train, heldout = ({_frame(t.instruction) for t in many[s] if t.task_type == family} for s in SPLITS)
        assert train
        assert heldout
        assert not train & heldout


@pytest.mark.slow
def test_every_heldout_word_is_trained_on_and_in_the_vocabulary(many: dict[str, list[EditTask]]) -> None:
    covered = set().union(*(_words(sentence) for sentence in vocabulary(more=True)))
    for family in MORE:
        trained, heldout = (
            set().union(*(_words(task.instruction) for task in many[split] if task.task_type == family))
            for split in SPLITS
        )
        numbers = {word for word in heldout if word[0].isdigit()}
        assert heldout - trained <= numbers  # each number of one digit after the point is made of known digits
        assert trained | heldout <= covered
    assert vocabulary(more=True)[: len(vocabulary())] == vocabulary()


@pytest.mark.slow
def test_sentences_are_short_and_metadata_is_json(many: dict[str, list[EditTask]]) -> None:
    for task in (*many["train"], *many["heldout"]):
        assert len(task.instruction.split()) <= 12
        assert json.loads(json.dumps(task.metadata)) == task.metadata


def test_families_are_known_by_name_in_data_sets() -> None:
    tasks = list(load_tasks("stickers", families=("tiny", "cast"), limit=4, side=84))
    assert [task.task_type for task in tasks] == ["tiny", "cast", "tiny", "cast"]
    with pytest.raises(ConfigError, match=r"Valid: .*tiny"):
        list(load_tasks("stickers", families=("tinny",), limit=1))
