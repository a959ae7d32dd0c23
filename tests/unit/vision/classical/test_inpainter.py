"""The classical inpainter removes and draws, touches nothing outside of the mask, and fakes nothing."""

from __future__ import annotations

import asyncio

import cv2
import numpy as np
import pytest
from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.vision import InpaintParams
from agentfly.vision.classical import ClassicalDetector, ClassicalInpainter
from agentfly.vision.shapes import COLOURS, Figure


def mask_of(image: Image.Image, words: str, dilate: int = 4) -> Image.Image:
    found = asyncio.run(ClassicalDetector().detect(image, words, box_threshold=0.6, text_threshold=0.25))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * dilate + 1, 2 * dilate + 1))
    return Image.fromarray(cv2.dilate(np.asarray(found[0].mask), kernel))


def inpaint(image: Image.Image, mask: Image.Image, prompt: str, strength: float | None = None) -> Image.Image:
    return asyncio.run(ClassicalInpainter().inpaint(image, mask, prompt, InpaintParams(strength=strength)))


def difference(a: Image.Image, b: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max(axis=2)


@pytest.mark.parametrize("prompt", ["", "background", "remove", "nothing"])
def test_removal_brings_back_the_smooth_ground(scene: Image.Image, plain: Image.Image, prompt: str) -> None:
    result = inpaint(scene, mask_of(scene, "red circle"), prompt)
    assert difference(result, plain)[:80, :80].max() < 15


def test_without_dilation_a_white_rim_stays(scene: Image.Image, plain: Image.Image) -> None:
    result = inpaint(scene, mask_of(scene, "red circle", 0), "")
    assert (difference(result, plain)[:80, :80] > 60).sum() > 200


@pytest.mark.parametrize("prompt", ["", "blue", "green square", "star"])
def test_pixels_outside_of_the_mask_stay_exactly(scene: Image.Image, prompt: str) -> None:
    mask = mask_of(scene, "red circle", 6)
    changed = difference(inpaint(scene, mask, prompt), scene) > 0
    assert changed.any()
    assert not changed[np.asarray(mask) == 0].any()


def test_the_right_dilation_redraws_the_sticker_at_its_size(scene: Image.Image, plain: Image.Image) -> None:
    wanted = np.array(scene)
    Figure("circle", "purple", 40.0, 40.0, 16.0, 3.36).draw(wanted)
    result = inpaint(scene, mask_of(scene, "red circle"), "purple circle")
    area = np.asarray(mask_of(result, "purple circle", 0)).sum() / 255
    assert area == pytest.approx(np.pi * 16**2, rel=0.1)
    assert difference(result, Image.fromarray(wanted)).mean() < 1.0


def test_too_large_a_dilation_draws_it_too_large(scene: Image.Image) -> None:
    areas = [
        np.asarray(mask_of(inpaint(scene, mask_of(scene, "red circle", d), "purple circle"), "purple circle", 0)).sum()
        for d in (4, 8, 12)
    ]
    assert areas[0] * 1.3 < areas[1] < areas[2]


def test_a_colour_alone_keeps_the_shape_and_a_shape_alone_the_colour(scene: Image.Image) -> None:
    recoloured = inpaint(scene, mask_of(scene, "green star"), "orange")
    assert np.asarray(mask_of(recoloured, "orange star", 0)).any()
    reshaped = inpaint(scene, mask_of(scene, "red circle"), "a square")
    assert np.asarray(mask_of(reshaped, "red square", 0)).any()


def test_a_mask_of_no_known_shape_is_filled(plain: Image.Image) -> None:
    mask = Image.new("L", plain.size)
    mask.paste(255, (20, 20, 140, 40))
    result = np.asarray(inpaint(plain, mask, "blue"))
    assert tuple(result[30, 80]) == COLOURS["blue"]
    assert tuple(result[20, 80]) == (250, 250, 250)


def test_strength_and_feathered_masks_blend(scene: Image.Image) -> None:
    mask = mask_of(scene, "red circle")
    full, half = (difference(inpaint(scene, mask, "", strength), scene).astype(float) for strength in (1.0, 0.5))
    assert half.sum() == pytest.approx(full.sum() / 2, rel=0.03)
    feathered = mask.point(lambda value: value // 2)
    assert difference(inpaint(scene, feathered, ""), scene).sum() == pytest.approx(full.sum() / 2, rel=0.03)


@pytest.mark.parametrize("prompt", ["a cat", "crimson square", "a red and blue circle"])
def test_what_it_cannot_paint_needs_a_model(scene: Image.Image, prompt: str) -> None:
    with pytest.raises(EngineUnavailable, match="needs a model backend: "):
        inpaint(scene, mask_of(scene, "red circle"), prompt)


def test_settings_that_cannot_be_are_refused(scene: Image.Image) -> None:
    with pytest.raises(ToolError, match="strength"):
        inpaint(scene, mask_of(scene, "red circle"), "", 0.0)
    with pytest.raises(ToolError, match="10x10 but the picture 168x168"):
        inpaint(scene, Image.new("L", (10, 10), 255), "")


def test_a_mask_too_small_for_a_sticker_says_so_and_a_speck_beside_one_does_no_harm(scene: Image.Image) -> None:
    speck = Image.new("L", scene.size)
    speck.putpixel((160, 160), 255)
    with pytest.raises(ToolError, match="too small"):
        inpaint(scene, speck, "blue square")
    mask = mask_of(scene, "red circle")
    mask.putpixel((160, 160), 255)
    assert np.asarray(mask_of(inpaint(scene, mask, "purple circle"), "purple circle", 0)).any()


def test_an_empty_mask_changes_nothing_and_transparency_is_kept(scene: Image.Image) -> None:
    assert inpaint(scene, Image.new("L", scene.size), "blue star") == scene
    glass = scene.convert("RGBA")
    glass.putalpha(77)
    result = inpaint(glass, mask_of(scene, "red circle"), "")
    assert result.getchannel("A").getextrema() == (77, 77)


def test_a_figure_fits_a_mask_of_another_size() -> None:
    image, mask = Image.new("RGB", (300, 200), "grey"), Image.new("L", (300, 200))
    mask.paste(255, (100, 50, 200, 150))
    pixels = np.asarray(inpaint(image, mask, "red square"))
    wanted = np.asarray(image).copy()
    Figure("square", "red", 149.5, 99.5, 46.0, 4.0).draw(wanted)
    assert np.abs(pixels.astype(int) - wanted).mean() < 1.5
