"""Blurred images in Lab: the same pixels in strips, as a whole, and from memory."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from agentfly.datasets.photos import load_photo
from agentfly.evaluators.measured import lab
from agentfly.evaluators.measured.lab import LabMemory, LabReader
from agentfly.evaluators.measured.regions import strips

SIDE = 40
WHOLE = (slice(0, SIDE), slice(0, SIDE))


def photo(name: str = "coffee.png") -> np.ndarray:
    return np.asarray(load_photo(name).resize((SIDE, SIDE)))


@pytest.mark.parametrize("blur", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("strip", [1, 300, 10**6])
def test_strips_are_the_whole_image(monkeypatch: pytest.MonkeyPatch, strip: int, blur: float) -> None:
    monkeypatch.setattr(lab, "STRIP", strip)
    pixels = photo()
    blurred = cv2.GaussianBlur(pixels.astype(np.float32) / np.float32(255), (0, 0), blur)
    expected = cv2.cvtColor(blurred, cv2.COLOR_RGB2LAB)
    reader = LabReader(blur, WHOLE, pixels.shape)
    for part in strips(WHOLE, strip):
        assert np.array_equal(reader.read(pixels, part), expected[part])
    kept = LabMemory().whole(pixels, reader)
    assert kept is not None
    assert np.array_equal(kept, expected)


def test_an_image_is_known_again_by_its_pixels_and_blur() -> None:
    memory, pixels = LabMemory(), photo()
    reader = LabReader(1.0, WHOLE, pixels.shape)
    kept = memory.whole(pixels, reader)
    assert memory.whole(pixels.copy(), reader) is kept
    other = pixels.copy()
    other[-1, -1, -1] ^= 1
    assert memory.whole(other, reader) is not kept
    assert memory.whole(pixels, LabReader(2.0, WHOLE, pixels.shape)) is not kept


def test_memory_is_bounded_and_forgets_what_was_not_used() -> None:
    images = [photo(name) for name in ("coffee.png", "astronaut.png", "chelsea.png")]
    reader = LabReader(1.0, WHOLE, images[0].shape)
    memory = LabMemory(2 * 5 * images[0].nbytes)
    first, second = memory.whole(images[0], reader), memory.whole(images[1], reader)
    assert memory.whole(images[0], reader) is first
    memory.whole(images[2], reader)
    assert memory.whole(images[0], reader) is first
    assert memory.whole(images[1], reader) is not second
    assert LabMemory(5 * images[0].nbytes - 1).whole(images[0], reader) is None
