"""Tone: exact identity, closed forms of each curve, and no level out of its order."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.errors import ConfigError
from agentfly.vision.retouching import Pixels, adjust_tone, from_linear, to_linear

PERCENT = st.floats(-100, 100)


def ramp(kind: type[np.uint8] | type[np.uint16]) -> Pixels:
    """Return every level once, in a row of greys."""
    values = np.arange(int(np.iinfo(kind).max) + 1, dtype=kind)
    return np.repeat(values[None, :, None], 3, axis=2)


def curve(kind: type[np.uint8] | type[np.uint16], **parameters: float) -> np.ndarray:
    """Return the encoded values, 0 to 1, that the levels are mapped to."""
    made = adjust_tone(ramp(kind), **parameters)
    assert made.dtype == kind
    assert (made[..., 0] == made[..., 1]).all()
    return made[0, :, 0] / float(np.iinfo(kind).max)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_nothing_set_returns_the_pixels_in_a_new_array(kind: type[np.uint8]) -> None:
    pixels = ramp(kind)
    made = adjust_tone(pixels, exposure=0, contrast=0, highlights=0, shadows=0)
    assert made.dtype == kind
    assert np.array_equal(made, pixels)
    made[:] = 0
    assert pixels.any()


@pytest.mark.parametrize("stops", [-5.0, -1.0, 0.5, 1.0, 5.0])
def test_a_stop_of_exposure_doubles_linear_light(stops: float) -> None:
    before = to_linear(np.arange(65536) / 65535)
    expected = from_linear(np.minimum(before * 2**stops, 1))
    assert np.abs(curve(np.uint16, exposure=stops) - expected).max() <= 0.5 / 65535 + 1e-12


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_contrast_keeps_black_middle_and_white_and_is_symmetric(kind: type[np.uint8]) -> None:
    made = curve(kind, contrast=100)
    white = np.iinfo(kind).max
    assert made[0] == 0
    assert made[-1] == 1
    assert np.abs(made + made[::-1] - 1).max() <= 1.01 / white
    # The odds are squared: 1/3 has odds 1/2, which become 1/4, the odds of 1/5.
    assert made[white // 3] == pytest.approx(1 / 5, abs=0.51 / white)


def test_negative_contrast_undoes_contrast() -> None:
    pixels = ramp(np.uint16)
    back = adjust_tone(adjust_tone(pixels, contrast=-60), contrast=60)
    assert np.abs(back.astype(int) - pixels).max() <= 2


def test_highlights_and_shadows_move_their_own_quarter_most() -> None:
    levels = np.arange(65536) / 65535
    for name, place in (("shadows", 0.25), ("highlights", 0.75)):
        moved = curve(np.uint16, **{name: 100}) - levels
        assert levels[moved.argmax()] == pytest.approx(place, abs=0.005)
        assert moved.max() == pytest.approx(27 / 256, abs=1e-4)
        assert (moved >= 0).all()
        assert moved[round(65535 * (1 - place))] < moved.max() / 8
        assert np.abs(moved + curve(np.uint16, **{name: -100}) - levels).max() < 2 / 65535


def test_no_curve_puts_levels_out_of_their_order() -> None:
    extremes = (-100.0, 0.0, 100.0)
    for exposure, contrast, highlights, shadows in product((-5.0, 0.0, 5.0), extremes, extremes, extremes):
        made = curve(np.uint8, exposure=exposure, contrast=contrast, highlights=highlights, shadows=shadows)
        assert (np.diff(made) >= 0).all()
        assert made[0] == 0


@given(st.floats(-5, 5), PERCENT, PERCENT, PERCENT)
def test_more_of_a_parameter_is_never_darker_and_alpha_stays(
    exposure: float, contrast: float, highlights: float, shadows: float
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    settings = {"exposure": exposure, "contrast": contrast, "highlights": highlights, "shadows": shadows}
    made = adjust_tone(pixels, **settings)
    assert np.array_equal(made[..., 3], pixels[..., 3])
    for name in ("exposure", "highlights", "shadows"):
        more = adjust_tone(pixels, **settings | {name: min(settings[name] + 1, 100 if name != "exposure" else 5)})
        assert (more >= made).all()


def test_what_lies_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match="exposure is from -5 to 5, not 6"):
        adjust_tone(ramp(np.uint8), exposure=6)
    with pytest.raises(ConfigError, match="shadows is from -100 to 100, not nan"):
        adjust_tone(ramp(np.uint8), shadows=float("nan"))


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 2, 3), np.float32), np.zeros((2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"pixels"):
        adjust_tone(wrong)
