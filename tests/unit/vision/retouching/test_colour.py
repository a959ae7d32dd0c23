"""Colour: white balance by its published whites, saturation that keeps luminance, hues that keep to their range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.errors import ConfigError
from agentfly.vision.retouching import (
    Pixels,
    adjust_colour,
    adjust_hue_range,
    from_linear,
    light,
    to_linear,
    white_balance_gains,
)

LUMINANCE = np.array(light.LUMINANCE)
PERCENT = st.floats(-100, 100)


def noise(kind: type[np.uint8] | type[np.uint16] = np.uint8, channels: int = 3) -> Pixels:
    return np.random.default_rng(3).integers(0, int(np.iinfo(kind).max) + 1, (40, 50, channels), dtype=kind)


def luminance(pixels: Pixels) -> np.ndarray:
    return to_linear(pixels[..., :3] / float(np.iinfo(pixels.dtype).max)) @ LUMINANCE


def one(*colour: int) -> Pixels:
    return np.array([[colour]], np.uint8)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_nothing_set_returns_the_pixels_exactly(kind: type[np.uint8], channels: int) -> None:
    pixels = noise(kind, channels)
    assert np.array_equal(adjust_colour(pixels), pixels)
    assert np.array_equal(adjust_hue_range(pixels, 120), pixels)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_the_smallest_amount_changes_no_level_by_its_arithmetic(kind: type[np.uint8]) -> None:
    """Decoding to light and encoding again must give the same levels, or the first step off zero would be a jump."""
    pixels = noise(kind)
    assert np.array_equal(adjust_colour(pixels, saturation=1e-7), pixels)
    assert np.array_equal(adjust_colour(pixels, temperature=1e-7), pixels)
    assert np.array_equal(adjust_hue_range(pixels, 0, width=180, shift=1e-7, luminance=1e-7), pixels)


def test_temperature_leads_from_one_published_white_to_another() -> None:
    xyz_of_d50 = np.array([0.96422, 1.0, 0.82521])
    to_srgb = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    gains = white_balance_gains(1e6 / 5003 - 1e6 / 6504, 0)
    expected = to_srgb @ xyz_of_d50
    assert gains / gains[1] == pytest.approx(expected / expected[1], rel=1e-3)


@given(PERCENT, PERCENT)
def test_gains_keep_greys_and_are_undone_by_the_negative(temperature: float, tint: float) -> None:
    gains = white_balance_gains(temperature, tint)
    assert np.dot(LUMINANCE, np.log(gains)) == pytest.approx(0, abs=1e-12)
    assert gains * white_balance_gains(-temperature, -tint) == pytest.approx(np.ones(3))


def test_white_balance_multiplies_linear_light() -> None:
    pixels = noise(np.uint16) // 3
    gains = white_balance_gains(40, -30)
    expected = from_linear(np.minimum(to_linear(pixels / 65535) * gains, 1)) * 65535
    assert np.abs(adjust_colour(pixels, temperature=40, tint=-30) - expected).max() <= 0.51


def test_a_cast_is_undone_where_nothing_was_clipped() -> None:
    pixels = noise(np.uint16) // 2
    cast = adjust_colour(pixels, temperature=35, tint=20)
    assert np.abs(adjust_colour(cast, temperature=-35, tint=-20).astype(int) - pixels).max() <= 4


def test_positive_temperature_is_warm_and_positive_tint_is_magenta() -> None:
    warm, magenta = (
        adjust_colour(one(128, 128, 128), temperature=50)[0, 0],
        adjust_colour(one(128, 128, 128), tint=50)[0, 0],
    )
    assert warm[0] > 128 > warm[2]
    assert magenta[0] == magenta[2] > 128 > magenta[1]


@pytest.mark.parametrize("saturation", [-100, -40, 30, 100])
def test_saturation_keeps_luminance(saturation: float) -> None:
    pixels = noise(np.uint16)
    made = adjust_colour(pixels, saturation=saturation)
    assert np.abs(luminance(made) - luminance(pixels)).max() < 4e-5
    grey = luminance(pixels)[..., None]
    before, after = to_linear(pixels / 65535) - grey, to_linear(made / 65535) - grey
    inside = ((made > 0) & (made < 65535)).all(-1)
    assert inside.sum() > 100
    assert np.abs(after - before * (1 + saturation / 100))[inside].max() < 1e-4


def test_saturation_of_minus_100_is_grey_and_greys_stay() -> None:
    made = adjust_colour(noise(), saturation=-100)
    assert (made == made[..., :1]).all()
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(adjust_colour(greys, saturation=100), greys)
    assert np.array_equal(adjust_hue_range(greys, 0, width=180, saturation=100, luminance=100, shift=90), greys)


def test_blocks_of_rows_give_the_same_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(channels=4)
    whole = adjust_colour(pixels, saturation=50), adjust_hue_range(pixels, 30, saturation=50)
    monkeypatch.setattr(light, "_BLOCK", 170)
    assert np.array_equal(adjust_colour(pixels, saturation=50), whole[0])
    assert np.array_equal(adjust_hue_range(pixels, 30, saturation=50), whole[1])


def test_only_the_range_of_hues_changes() -> None:
    colours = np.array([[(255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)]], np.uint8)
    made = adjust_hue_range(colours, 0, shift=120)
    assert made.tolist() == [[[0, 255, 0], [255, 255, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]]
    assert np.array_equal(adjust_hue_range(colours, 360, shift=120), made)


def test_a_hue_is_turned_by_its_weight() -> None:
    # Orange, 30 degrees from red, has half the weight.
    made = adjust_hue_range(one(240, 120, 0), 0, width=60, shift=60)[0, 0]
    assert made.tolist() == [240, 240, 0]


def test_luminance_of_a_range_is_in_stops() -> None:
    made = adjust_hue_range(one(100, 0, 0), 0, luminance=100)
    assert to_linear(made / 255)[0, 0, 0] == pytest.approx(2 * to_linear(one(100) / 255)[0, 0, 0], rel=0.01)


def test_ranges_a_width_apart_make_up_the_whole() -> None:
    pixels = noise(np.uint16)
    before = to_linear(pixels / 65535)
    ranges = (adjust_hue_range(pixels, hue, saturation=-40) for hue in range(0, 360, 60))
    parts = sum(to_linear(made / 65535) - before for made in ranges)
    assert np.abs(parts - (to_linear(adjust_colour(pixels, saturation=-40) / 65535) - before)).max() < 3e-4


def test_what_lies_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match="tint is from -100 to 100, not 101"):
        adjust_colour(noise(), tint=101)
    with pytest.raises(ConfigError, match="width is from 1 to 180, not 0"):
        adjust_hue_range(noise(), 0, width=0)
