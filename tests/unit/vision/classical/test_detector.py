"""The classical detector sees pixels and reads words; it knows what it does not know."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from agentfly.errors import ToolError
from agentfly.vision import Detections
from agentfly.vision.classical import ClassicalDetector
from agentfly.vision.shapes import COLOURS, SHAPES, Figure

DETECTOR = ClassicalDetector()


def detect(image: Image.Image, prompt: str, box_threshold: float = 0.6, text_threshold: float = 0.25) -> Detections:
    return asyncio.run(DETECTOR.detect(image, prompt, box_threshold=box_threshold, text_threshold=text_threshold))


def test_both_words_find_the_one_sticker(scene: Image.Image) -> None:
    (found,) = detect(scene, "the red circle")
    assert found.label == "red circle"
    assert 0.75 <= found.score <= 0.95
    assert found.box == pytest.approx((24, 24, 57, 57), abs=1)


def test_the_mask_is_the_coloured_area_without_the_border(scene: Image.Image) -> None:
    (found,) = detect(scene, "red circle")
    mask = np.asarray(found.mask)
    assert found.mask.size == scene.size
    assert mask.sum() / 255 == pytest.approx(np.pi * 16**2, rel=0.08)
    assert not mask[40, 58:].any()


def test_a_low_threshold_takes_the_sticker_of_the_same_shape_too(scene: Image.Image) -> None:
    right, other = detect(scene, "red circle", 0.3)
    assert right.label == "red circle"
    assert other.label == "circle"
    assert 0.35 < other.score < 0.5


def test_a_high_threshold_takes_none_and_tells_how_near_it_was(scene: Image.Image) -> None:
    found = detect(scene, "red circle", 0.95)
    assert found == []
    assert found.best_rejected == pytest.approx(0.88, abs=0.07)


@pytest.mark.parametrize(("prompt", "count"), [("circle", 2), ("blue", 1), ("star", 1), ("all stickers", 3)])
def test_one_word_is_enough(scene: Image.Image, prompt: str, count: int) -> None:
    assert len(detect(scene, prompt)) == count


def test_several_phrases_are_looked_for_at_once(scene: Image.Image) -> None:
    labels = {found.label for found in detect(scene, "red circle . green star")}
    assert labels == {"red circle", "green star"}


def test_words_below_the_text_threshold_leave_the_label(scene: Image.Image) -> None:
    (found,) = detect(scene, "red circle", 0.6, text_threshold=1.0)
    assert found.label == "object"


@pytest.mark.parametrize("prompt", ["crimson circle", "the red disc", "a cat"])
def test_unknown_words_are_named_with_the_known_ones(scene: Image.Image, prompt: str) -> None:
    with pytest.raises(ToolError, match=r"does not know '(crimson|disc|cat)'.*red, green.*circle, square"):
        detect(scene, prompt)


def test_an_empty_prompt_is_refused(scene: Image.Image) -> None:
    with pytest.raises(ToolError, match="names nothing"):
        detect(scene, " . ")


def test_nothing_there_is_an_empty_answer(plain: Image.Image) -> None:
    found = detect(plain, "red circle", 0.1)
    assert found == []
    assert found.best_rejected is None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_and_shape_is_told_from_the_others(plain: Image.Image, colour: str, shape: str) -> None:
    pixels = np.array(plain)
    Figure(shape, colour, 80.0, 80.0, 12.0, 3.36).draw(pixels)
    (found,) = detect(Image.fromarray(pixels), "sticker", 0.5)
    (same,) = detect(Image.fromarray(pixels), f"{colour} {shape}", 0.7)
    assert found.box == same.box


def test_it_sees_drawings_that_are_not_ours() -> None:
    """Another size, no border, another red, a turned square: shape does not depend on size or rotation."""
    image = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(image).ellipse((30, 40, 130, 140), fill=(200, 20, 20))
    ImageDraw.Draw(image).polygon([(300, 80), (370, 150), (300, 220), (230, 150)], fill=(20, 40, 200))
    assert detect(image, "red circle", 0.7)[0].box == pytest.approx((30, 40, 131, 141), abs=2)
    assert detect(image, "blue square", 0.7)[0].box == pytest.approx((230, 80, 371, 221), abs=2)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 70))
def test_any_image_gives_ordered_scores_and_boxes_inside(seed: int, width: int, height: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    # Coarse blocks, so that regions large enough to look at occur.
    image = Image.fromarray(pixels).resize((width * 8, height * 8), Image.Resampling.NEAREST)
    found = detect(image, "red circle. sticker", 0.0)
    scores = [detection.score for detection in found]
    assert scores == sorted(scores, reverse=True)
    for detection in found:
        x0, y0, x1, y1 = detection.box
        assert 0 <= x0 < x1 <= image.width
        assert 0 <= y0 < y1 <= image.height
        assert 0.0 <= detection.score <= 1.0
