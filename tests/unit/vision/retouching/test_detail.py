"""Detail: blur keeps the light, sharpening keeps plain areas, grain is the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from agentfly.errors import ConfigError
from agentfly.vision.retouching import Pixels, add_grain, blur, light, sharpen, to_linear


def noise(kind: type[np.uint8] | type[np.uint16] = np.uint8, channels: int = 3) -> Pixels:
    return np.random.default_rng(3).integers(0, int(np.iinfo(kind).max) + 1, (40, 50, channels), dtype=kind)


def grey(value: int, kind: type[np.uint8] | type[np.uint16] = np.uint8, side: int = 64) -> Pixels:
    return np.full((side, side, 3), value, kind)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_zero_returns_the_pixels_exactly(kind: type[np.uint8], channels: int) -> None:
    pixels = noise(kind, channels)
    for made in (blur(pixels, 0), sharpen(pixels, 0), add_grain(pixels, 0, seed=7)):
        assert made is not pixels
        assert np.array_equal(made, pixels)


@pytest.mark.parametrize("sigma", [0.5, 3.0, 50.0])
def test_blur_keeps_the_mean_of_light(sigma: float) -> None:
    pixels = noise(np.uint16)
    before, after = (to_linear(image / 65535).mean((0, 1)) for image in (pixels, blur(pixels, sigma)))
    assert after == pytest.approx(before, abs=2e-5)


def test_blur_of_a_point_is_the_gaussian() -> None:
    pixels = np.zeros((61, 61, 3), np.uint16)
    pixels[30, 30] = 65535
    sigma = 4.0
    squares = ((np.indices((61, 61)) - 30) ** 2).sum(0)
    expected = np.exp(-squares / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    assert np.abs(to_linear(blur(pixels, sigma)[..., 0] / 65535) - expected).max() < 3e-5


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (2, 3)])
def test_images_narrower_than_the_blur_are_blurred_too(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 77, np.uint8)
    assert np.array_equal(blur(pixels, 50), pixels)
    assert np.array_equal(sharpen(pixels, 300, radius=50), pixels)


def test_no_colour_comes_out_of_transparent_pixels() -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, :10] = (200, 50, 50, 255)
    pixels[:, 10:] = (0, 255, 0, 0)
    made = blur(pixels, 3)
    assert np.array_equal(made[..., 3], pixels[..., 3])
    assert (made[:, :10, :3] == (200, 50, 50)).all()
    assert (sharpen(pixels, 200, radius=2)[:, :10, :3] == (200, 50, 50)).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_sharpening_steepens_edges_without_fringes_and_leaves_plain_areas(kind: type[np.uint8]) -> None:
    white = int(np.iinfo(kind).max)
    pixels = grey(white // 4, kind)
    pixels[:, 32:] = white // 2
    made = sharpen(pixels, 100, radius=1.5)
    assert (made == made[..., :1]).all()
    row = made[5, :, 0].astype(int)
    assert row[31] < white // 4 < white // 2 < row[32]
    assert (row[:20] == white // 4).all()
    assert (row[44:] == white // 2).all()
    # What is added on one side of the edge is taken away on the other.
    assert abs((row - pixels[5, :, 0]).sum()) <= 4


def test_amount_of_sharpening_is_in_proportion() -> None:
    pixels = grey(20000, np.uint16)
    pixels[:, 32:] = 30000
    once, twice = (sharpen(pixels, amount).astype(int) - pixels for amount in (60, 120))
    assert once.max() > 1000
    assert np.abs(twice - 2 * once).max() <= 2


def test_grain_is_of_its_strength_grey_and_gone_in_black_and_white() -> None:
    pixels = grey(32768, np.uint16, 200)
    change = (add_grain(pixels, 50, seed=1).astype(float) - pixels) / 65535
    assert (change == change[..., :1]).all()
    assert change.std() == pytest.approx(0.1, rel=0.03)
    assert change.mean() == pytest.approx(0, abs=0.002)
    for value in (0, 255):
        assert np.array_equal(add_grain(grey(value), 100), grey(value))


def test_grain_is_decided_by_its_seed_and_not_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise()
    made = add_grain(pixels, 30, seed=2)
    assert not np.array_equal(made, add_grain(pixels, 30, seed=3))
    monkeypatch.setattr(light, "_BLOCK", 350)
    assert np.array_equal(made, add_grain(pixels, 30, seed=2))
    assert np.array_equal(blur(pixels, 2), blur(pixels.copy(), 2))


def test_grain_stays_the_same_over_versions() -> None:
    """Recorded chains are executed again and compared by the hash of their images."""
    assert add_grain(grey(128, side=2), 100, seed=5)[..., 0].tolist() == [[151, 111], [252, 115]]


def test_what_lies_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match="sigma is from 0 to 50, not 51"):
        blur(noise(), 51)
    with pytest.raises(ConfigError, match=r"radius is from 0\.1 to 50, not 0"):
        sharpen(noise(), 50, radius=0)
    with pytest.raises(ConfigError, match="amount is from 0 to 100, not -1"):
        add_grain(noise(), -1)
