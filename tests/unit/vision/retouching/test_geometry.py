"""Geometry: exact where pixels only move, averages of light where they are mixed, and no colour out of nowhere."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.errors import ConfigError
from agentfly.vision.retouching import (
    Pixels,
    crop,
    flip,
    from_linear,
    resize,
    rotate,
    straighten_perspective,
    to_linear,
)

KINDS = pytest.mark.parametrize("kind", [np.uint8, np.uint16])
CHANNELS = pytest.mark.parametrize("channels", [3, 4])


def noise(kind: type[np.uint8] | type[np.uint16] = np.uint8, channels: int = 3) -> Pixels:
    return np.random.default_rng(3).integers(0, int(np.iinfo(kind).max) + 1, (40, 50, channels), dtype=kind)


@KINDS
@CHANNELS
def test_what_moves_no_pixel_returns_them_exactly(kind: type[np.uint8], channels: int) -> None:
    pixels = noise(kind, channels)
    same = (
        crop(pixels, 0, 0, 50, 40),
        rotate(pixels, 0),
        rotate(pixels, 360),
        resize(pixels, 50, 40),
        straighten_perspective(pixels, [(0, 0), (50, 0), (50, 40), (0, 40)]),
    )
    for made in same:
        assert made is not pixels
        assert made.dtype == kind
        assert np.array_equal(made, pixels)


def test_crop_is_the_part_from_the_first_to_before_the_last() -> None:
    pixels = noise(channels=4)
    assert np.array_equal(crop(pixels, 3, 5, 10, 40), pixels[5:40, 3:10])
    with pytest.raises(ConfigError, match=r"\(3, 5, 3, 40\) is not inside the image, which is 50x40"):
        crop(pixels, 3, 5, 3, 40)
    with pytest.raises(ConfigError, match="right <= 50 and top < bottom <= 40"):
        crop(pixels, 0, 0, 51, 40)


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_a_flip_mirrors_and_a_second_one_undoes_it(direction: Literal["horizontal", "vertical"]) -> None:
    pixels = noise(np.uint16, 4)
    made = flip(pixels, direction)
    assert np.array_equal(made[0, 0], pixels[0, -1] if direction == "horizontal" else pixels[-1, 0])
    assert np.array_equal(flip(made, direction), pixels)


@CHANNELS
def test_quarter_turns_are_exact_and_clockwise(channels: int) -> None:
    pixels = noise(channels=channels)
    right = rotate(pixels, 90)
    assert right.shape[:2] == (50, 40)
    assert np.array_equal(right[0, -1], pixels[0, 0])
    assert np.array_equal(rotate(right, 270), pixels)
    assert np.array_equal(rotate(right, -90), pixels)
    assert np.array_equal(rotate(pixels, 180), pixels[::-1, ::-1])


def test_a_small_turn_is_clockwise_and_around_the_middle() -> None:
    pixels = np.zeros((101, 101, 3), np.uint8)
    pixels[48:53, 78:83] = 255  # right of the middle, by 30 pixels
    made = rotate(pixels, 30, expand=True)
    rows, columns = np.nonzero(made[..., 0] > 128)
    height, width = made.shape[:2]
    assert columns.mean() + 0.5 - width / 2 == pytest.approx(30 * math.cos(math.radians(30)), abs=0.3)
    assert rows.mean() + 0.5 - height / 2 == pytest.approx(30 * math.sin(math.radians(30)), abs=0.3)


@given(st.floats(-360, 360), st.integers(1, 60), st.integers(1, 60))
def test_a_turned_image_is_cut_to_what_it_fills(degrees: float, width: int, height: int) -> None:
    made = rotate(np.full((height, width, 3), 90, np.uint8), degrees)
    assert (made == 90).all()
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    if degrees % 90:
        # All corners of the upright rectangle lie within the turned image.
        high, wide = made.shape[:2]
        assert wide * cos + high * sin <= width + 1e-6 or wide == 1 or high == 1
        assert wide * sin + high * cos <= height + 1e-6 or wide == 1 or high == 1


@CHANNELS
def test_a_turned_image_that_is_kept_whole_has_transparent_corners(channels: int) -> None:
    pixels = np.full((40, 60, channels), 255, np.uint8)
    pixels[..., :3] = (10, 200, 30)
    made = rotate(pixels, 45, expand=True)
    assert made.shape == (71, 71, 4)
    assert made[0, 0, 3] == 0
    assert (made[made[..., 3] == 255][:, :3] == (10, 200, 30)).all()
    assert made[..., 3].sum() / 255 == pytest.approx(2400, rel=0.01)


def test_perspective_puts_the_four_corners_into_the_corners() -> None:
    height, width = 120, 160
    y, x = np.mgrid[0:height, 0:width] + 0.5
    light = np.stack([x / width, y / height, np.zeros_like(x)], axis=-1)
    pixels = np.rint(from_linear(light) * 65535).astype(np.uint16)
    corners = [(30, 20), (140, 10), (120, 100), (20, 90)]
    made = straighten_perspective(pixels, corners, size=(101, 81))
    places = to_linear(made / 65535) * (width, height, 1)
    for (row, column), corner in zip(((0, 0), (0, -1), (-1, -1), (-1, 0)), corners, strict=True):
        assert places[row, column, :2] == pytest.approx(corner, abs=1.5)
    # A projective map keeps straight lines: the diagonals meet in the middle.
    (a, b, c, d) = (np.append(corner, 1.0) for corner in corners)
    middle = np.cross(np.cross(a, c), np.cross(b, d))
    assert places[40, 50, :2] == pytest.approx(middle[:2] / middle[2], abs=0.2)


def test_an_upright_part_is_the_same_as_a_crop() -> None:
    pixels = noise(np.uint16, 3)
    made = straighten_perspective(pixels, [(10, 5), (40, 5), (40, 35), (10, 35)])
    assert np.array_equal(made, crop(pixels, 10, 5, 40, 35))


@pytest.mark.parametrize(
    ("corners", "said"),
    [
        ([(0, 0), (0, 40), (50, 40), (50, 0)], "clockwise"),  # counter-clockwise
        ([(0, 0), (50, 40), (50, 0), (0, 40)], "clockwise"),  # crossing itself
        ([(0, 0), (50, 0), (10, 5), (0, 40)], "without dents"),
        ([(5, 5), (5, 5), (5, 5), (5, 5)], "clockwise"),
        ([(0, 0), (51, 0), (50, 40), (0, 40)], "outside of the image, which is 50x40"),
        ([(0, 0), (50, 0), (50, 40)], "four pairs"),
        ([(0, 0), (50, 0), (50, 40), (0, math.nan)], "four pairs"),
    ],
)
def test_corners_that_cannot_be_straightened_are_refused(corners: list[tuple[float, float]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        straighten_perspective(noise(), corners)


def test_shrinking_averages_light() -> None:
    pixels = noise(np.uint16)
    light = to_linear(pixels / 65535)
    expected = light.reshape(20, 2, 10, 5, 3).mean((1, 3))
    made = to_linear(resize(pixels, 10, 20) / 65535)
    assert np.abs(made - expected).max() < 3e-5
    # Of black and white stripes it makes the grey that shines half as bright, 188 and not 128.
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 255
    assert (resize(stripes, 4, 4) == 188).all()


def test_uneven_shrinking_keeps_the_mean_of_light() -> None:
    pixels = noise(np.uint16)
    made = resize(pixels, 17, 9)
    assert to_linear(made / 65535).mean() == pytest.approx(to_linear(pixels / 65535).mean(), abs=1e-4)


@CHANNELS
@pytest.mark.parametrize("size", [(100, 80), (25, 80), (100, 20), (1, 1), (8192, 1)])
def test_a_plain_image_stays_plain_in_every_size(channels: int, size: tuple[int, int]) -> None:
    pixels = np.full((40, 50, channels), 201, np.uint8)
    made = resize(pixels, *size)
    assert made.shape == (size[1], size[0], channels)
    assert (made == 201).all()


def test_resampling_takes_no_colour_from_transparent_pixels() -> None:
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:, :19] = (200, 50, 50, 255)
    pixels[:, 19:] = (0, 255, 0, 0)
    for made in (resize(pixels, 20, 20), resize(pixels, 70, 70), rotate(pixels, 20, expand=True), rotate(pixels, 7)):
        seen = made[made[..., 3] > 40].astype(int)
        assert len(seen) > 50
        assert np.abs(seen[:, :3] - (200, 50, 50)).max() <= 3


def test_sizes_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match="width is from 1 to 8192, not 0"):
        resize(noise(), 0, 10)
    with pytest.raises(ConfigError, match="height is from 1 to 8192, not 9000"):
        resize(noise(), 10, 9000)
    with pytest.raises(ConfigError, match="resize it first"):
        rotate(np.zeros((1, 40000, 3), np.uint8), 10)
