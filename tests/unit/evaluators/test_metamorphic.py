"""What must hold on real photographs whatever the constants are: nothing that is no edit beats an edit."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from agentfly.datasets.photos import PHOTOS, load_photo
from agentfly.errors import EvaluatorError
from agentfly.evaluators import EditSample, Evaluator, ReferenceEvaluator, StructuralEvaluator

SIDE = 160
FILES = [photo.file for split in PHOTOS.values() for photo in split]
WAYS: dict[str, tuple[Evaluator, tuple[str, ...]]] = {
    "reference": (ReferenceEvaluator(), ("target", "mask")),
    "structural": (StructuralEvaluator(), ("target", "mask")),
    "structural, target only": (StructuralEvaluator(), ("target",)),
    "structural, mask only": (StructuralEvaluator(), ("mask",)),
}
KNOW_THE_TARGET = [name for name, (_, known) in WAYS.items() if "target" in known]


class Case:
    """A photograph, an object painted into it, and where."""

    def __init__(self, file: str) -> None:
        self.source = load_photo(file).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        self.mask = Image.new("L", self.source.size)
        ImageDraw.Draw(self.mask).ellipse((56, 50, 100, 106), fill=255)
        self.target = self.source.copy()
        self.target.paste((200, 40, 60), (0, 0), self.mask)
        self.honest = noisy(self.target, 2.0)

    def score(self, way: str, result: Image.Image) -> float:
        evaluator, known = WAYS[way]
        fields: dict[str, Any] = {name: getattr(self, name) for name in known}
        return asyncio.run(evaluator.evaluate(EditSample("paint a ball", self.source, result, **fields))).value


def noisy(image: Image.Image, sigma: float, seed: int = 0) -> Image.Image:
    """As an honest editor leaves an image: with a little noise everywhere."""
    pixels = np.asarray(image).astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, sigma, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def with_text(image: Image.Image, words: str, corner: tuple[int, int] = (4, 4)) -> Image.Image:
    painted = image.copy()
    ImageDraw.Draw(painted).text(corner, words, fill="white", stroke_width=1, stroke_fill="black")
    return painted


def hidden(image: Image.Image) -> Image.Image:
    """The image with nothing of it to be seen: wholly transparent, its colours kept."""
    unseen = image.copy()
    unseen.putalpha(0)
    return unseen


CASES = {file: Case(file) for file in FILES}


@pytest.fixture(params=FILES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.mark.parametrize("way", WAYS)
def test_the_source_is_a_no_op_and_the_target_is_what_was_wanted(case: Case, way: str) -> None:
    assert case.score(way, case.source.copy()) == 0.0
    assert case.score(way, case.target) >= 95
    assert case.score(way, case.honest) >= 95


@pytest.mark.parametrize("way", WAYS)
def test_damage_outside_costs_more_the_larger_it_is(case: Case, way: str) -> None:
    values = [case.score(way, case.target)]
    for side in (6, 12, 24, 40):
        damaged = case.target.copy()
        damaged.paste((0, 255, 0), (112, 112, 112 + side, 112 + side))
        values.append(case.score(way, damaged))
    assert all(later < earlier for earlier, later in itertools.pairwise(values))
    assert values[-1] < 40


@pytest.mark.parametrize("way", KNOW_THE_TARGET)
def test_half_an_edit_lies_between(case: Case, way: str) -> None:
    values = [case.score(way, Image.blend(case.source, case.target, share)) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert values == sorted(values)
    assert 10 < values[2] < 80


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_edit_never_beats_the_honest_one(case: Case, way: str) -> None:
    other = "rocket.jpg" if case is not CASES["rocket.jpg"] else "coffee.png"
    fakes = {
        "repainted": case.source.filter(ImageFilter.GaussianBlur(5)),
        "brighter everywhere, edit included": Image.eval(case.target, lambda value: min(255, value + 40)),
        "text on the input": with_text(case.source, "PERFECT: 100 / 100"),
        "another image": CASES[other].source,
        "another image's edit": CASES[other].target,
        "flat": Image.new("RGB", case.source.size, (200, 40, 60)),
        "noise": noisy(case.source, 6.0),
        "the edit, unseen": hidden(case.target),
        "mirrored": case.source.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }
    # Without a target the score cannot know what the place should look like, only what happened around it.
    bound = case.score(way, case.honest) * (0.5 if way in KNOW_THE_TARGET else 0.75)
    values = {name: case.score(way, fake) for name, fake in fakes.items()}
    assert {name: value for name, value in values.items() if value > bound} == {}


@pytest.mark.slow
@given(
    words=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=16),
    corner=st.tuples(st.integers(0, 140), st.integers(0, 150)),
    file=st.sampled_from(FILES),
    way=st.sampled_from(KNOW_THE_TARGET),
)
@settings(max_examples=25, deadline=None)
def test_no_text_on_the_input_beats_the_honest_edit(words: str, corner: tuple[int, int], file: str, way: str) -> None:
    case = CASES[file]
    assert case.score(way, with_text(case.source, words, corner)) < case.score(way, case.honest) / 2


@pytest.mark.parametrize("evaluator", [ReferenceEvaluator(), StructuralEvaluator()])
@pytest.mark.parametrize("brighter", [0, 2])
def test_a_target_that_is_the_source_pays_for_nothing(evaluator: Evaluator, brighter: int) -> None:
    """If source and target are equal, an image with a spoiled corner would pass for the answer."""
    case = CASES["coffee.png"]
    target, spoiled = case.source.copy(), case.source.copy()
    target.paste(Image.eval(case.source, lambda value: min(255, value + brighter)), (0, 0), case.mask)
    spoiled.paste("red", (2, 2, 4, 4))
    with pytest.raises(EvaluatorError, match="agree within the mask"):
        asyncio.run(evaluator.evaluate(EditSample("x", case.source, spoiled, target, case.mask)))


def test_the_structural_one_takes_any_size_and_needs_something_to_go_by() -> None:
    case = CASES["coffee.png"]
    large = case.target.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC)
    assert case.score("structural", large) > 70
    evaluator = StructuralEvaluator()
    with pytest.raises(EvaluatorError, match="needs a target or a mask"):
        asyncio.run(evaluator.evaluate(EditSample("x", case.source, case.target)))
    with pytest.raises(EvaluatorError, match="nothing would have to change"):
        asyncio.run(evaluator.evaluate(EditSample("x", case.source, case.target, target=case.source)))
    none = asyncio.run(evaluator.evaluate(EditSample("x", case.source, None, target=case.target)))
    assert (none.value, none.feedback) == (0.0, "There is no result.")
