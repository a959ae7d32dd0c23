"""The classical editor works on whole images by a small grammar, with the side effects that this has."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.vision import EditParams
from agentfly.vision.classical import ClassicalDetector, ClassicalEditor, classical_engines


def edit(image: Image.Image, instruction: str) -> Image.Image:
    return asyncio.run(ClassicalEditor().edit(image, instruction, EditParams()))


def labels(image: Image.Image) -> set[str]:
    words = "red circle. blue circle. green star. purple circle. purple star. yellow star. blue square"
    found = asyncio.run(ClassicalDetector().detect(image, words, box_threshold=0.7, text_threshold=0.25))
    return {detection.label for detection in found}


@pytest.mark.parametrize(
    ("instruction", "wanted"),
    [
        ("Make the red circle purple.", {"purple circle", "blue circle", "green star"}),
        ("Can you paint the star yellow please", {"red circle", "blue circle", "yellow star"}),
        ("replace the red circle by a blue square", {"blue square", "blue circle", "green star"}),
        ("Remove the blue circle and turn the green star purple.", {"red circle", "purple star"}),
        ("Delete the circles, then turn the green star yellow", {"yellow star"}),
    ],
)
def test_it_does_what_the_grammar_says(scene: Image.Image, instruction: str, wanted: set[str]) -> None:
    assert labels(scene) == {"red circle", "blue circle", "green star"}
    result = edit(scene, instruction)
    assert labels(result) == wanted
    assert result.size == scene.size


def test_removal_leaves_the_border_behind(scene: Image.Image, plain: Image.Image) -> None:
    """The price of having no mask: this is what makes the local tools worth their calls."""
    left = np.abs(np.asarray(edit(scene, "remove the red circle"), int) - np.asarray(plain, int))[:80, :80].max(axis=2)
    assert (left > 60).sum() > 200


def test_colours_change_over_the_whole_image(scene: Image.Image) -> None:
    scene.paste((150, 40, 40), (0, 140, 30, 168))
    result = np.asarray(edit(scene, "make the red circle blue"), dtype=int)
    assert result[155, 10, 2] > result[155, 10, 0]


def test_effects_change_the_whole_image(scene: Image.Image) -> None:
    before = np.asarray(scene, dtype=float)
    assert np.asarray(edit(scene, "brighten the picture")).mean() > before.mean() + 10
    assert np.asarray(edit(scene, "Make it darker.")).mean() < before.mean() - 10
    assert np.ptp(np.asarray(edit(scene, "make the photo black and white"), int), axis=2).max() == 0
    blurred = np.asarray(edit(scene, "blur"), dtype=float)
    assert np.abs(np.diff(blurred, axis=1)).max() < np.abs(np.diff(before, axis=1)).max() / 2


@pytest.mark.parametrize(("instruction", "factor"), [("brighten", 1.3), ("darken", 0.75)])
def test_every_value_is_scaled_rounded_and_clipped(instruction: str, factor: float) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([values, values[::-1], values.T], axis=2))
    expected = np.clip(np.round(np.asarray(image) * factor), 0, 255).astype(np.uint8)
    assert np.array_equal(np.asarray(edit(image, instruction)), expected)


@pytest.mark.parametrize(
    "instruction",
    ["make it a sunny day", "blur the dog", "remove the sticker in the top left", "remove the crimson disc", ""],
)
def test_what_is_outside_of_the_grammar_is_said(scene: Image.Image, instruction: str) -> None:
    with pytest.raises(EngineUnavailable, match="The classical editor can: remove X"):
        edit(scene, instruction)


@pytest.mark.parametrize("instruction", ["remove the orange star", "replace the squares by a red star"])
def test_what_is_not_in_the_image_is_said(scene: Image.Image, instruction: str) -> None:
    with pytest.raises(ToolError, match=r"there is no (orange star|square) in the picture"):
        edit(scene, instruction)


def test_the_engines_carry_their_name() -> None:
    engines = classical_engines()
    assert {engines.detector.name, engines.inpainter.name, engines.editor.name} == {"classical"}
