"""Pixels and light: the transfer function, integers that come back as they went, masks, and memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from agentfly.vision import retouching
from agentfly.vision.retouching import Pixels, from_linear, light, to_linear


def test_the_transfer_function_has_its_published_values() -> None:
    values = np.array([0.0, 0.04045, 0.5, 1.0])
    assert to_linear(values) == pytest.approx([0, 0.04045 / 12.92, 0.21404114, 1], abs=1e-8)
    assert from_linear(to_linear(values)) == pytest.approx(values)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_every_level_comes_back_from_light(kind: type[np.uint8]) -> None:
    levels = np.arange(int(np.iinfo(kind).max) + 1, dtype=kind)[:, None]
    assert np.array_equal(light.encoded(light.linear_light(levels), levels), levels)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_light_is_rounded_to_the_nearest_level(kind: type[np.uint8]) -> None:
    """The table of cells must not pass over a level, also where levels are closest, next to black."""
    white = int(np.iinfo(kind).max)
    like = np.zeros((1, 1, 3), kind)
    dense = np.concatenate([np.linspace(0, 0.01, 400_000), np.linspace(0, 1, 400_000)]).astype(np.float32)
    exact = from_linear(dense.astype(np.float64)) * white
    assert np.abs(light.encoded(dense[:, None], like)[:, 0] - exact).max() < 0.502
    assert light.encoded(np.array([[-1.0, 2.0]], np.float32), like).tolist() == [[0, white]]


def test_a_mask_blends_by_its_greys() -> None:
    before = np.full((1, 3, 4), 1000, np.uint16)
    after = np.full((1, 3, 4), 60000, np.uint16)
    made = light.blend(before, after, np.array([[0, 51, 255]], np.uint8))
    assert made[0].tolist() == [[1000] * 4, [12800, 12800, 12800, 1000], [60000, 60000, 60000, 1000]]


BIG = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
HEAVY: dict[str, Callable[[], Pixels]] = {
    "tone": lambda: retouching.adjust_tone(BIG, exposure=1),
    "saturation": lambda: retouching.adjust_colour(BIG, saturation=20),
    "hues": lambda: retouching.adjust_hue_range(BIG, 30, saturation=20),
    "grain": lambda: retouching.add_grain(BIG, 10),
    "blur": lambda: retouching.blur(BIG, 1),
    "sharpen": lambda: retouching.sharpen(BIG, 50),
    "rotate": lambda: retouching.rotate(BIG, 3),
    "blend": lambda: retouching.blend(BIG, BIG[::-1], BIG[..., 0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_memory_is_that_of_a_block_or_a_plane_and_not_of_the_image_in_floats(name: str) -> None:
    """Many chains edit at once: three channels in float32, with copies, would be 12 bytes a pixel each time."""
    tracemalloc.start()
    try:
        HEAVY[name]()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * BIG.nbytes
