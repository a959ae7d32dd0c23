"""Colour: white balance and saturation in linear light, and changes that are limited to a range of hues."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agentfly.vision.retouching.light import (
    LUMINANCE,
    Pixels,
    check_pixels,
    check_range,
    encoded,
    fractions,
    from_linear,
    grey_of,
    levels,
    linear_light,
    map_blocks,
    map_channels,
    to_linear,
)

# White of the standard illuminant D50 in linear sRGB, whose own white is D65 (XYZ 0.96422, 1, 0.82521 of ASTM E308
# times the matrix of IEC 61966-2-1), and the distance of the two on the scale of reciprocal colour temperatures:
# 1e6 / 5003 K - 1e6 / 6504 K.
_D50 = (1.17598, 0.97581, 0.72179)
_D50_MIREDS = 46.13

_Plane = NDArray[np.float32]


def white_balance_gains(temperature: float, tint: float) -> NDArray[np.float64]:
    """Return the factors of red, green and blue in linear light.

    They are those of von Kries' adaptation, in the primaries of sRGB, to another white:

        gains = (D50 / D65) ** (temperature / 46.13) * (1, 1/2, 1) ** (tint / 100) / luminance

    The first part goes along the daylights of the CIE, of which D50 and D65 are two; the second at right angles to it.
    The division makes the mean of the logarithms, weighted by luminance, zero: greys keep their brightness nearly. So
    gains multiply where parameters add, and the negative parameters undo a change, apart from clipping and rounding.

    Args:
        temperature: of the picture's looks, in mireds (1e6 / kelvin); positive is warmer (yellow), negative is cooler.
        tint: percent; positive is magenta, negative is green. 100 is one stop between green and the two others.
    """
    logs = np.log(_D50) * (temperature / _D50_MIREDS) - np.array([0.0, np.log(2.0), 0.0]) * (tint / 100)
    return np.asarray(np.exp(logs - np.dot(LUMINANCE, logs)), np.float64)


def adjust_colour(pixels: Pixels, *, saturation: float = 0.0, temperature: float = 0.0, tint: float = 0.0) -> Pixels:
    """Return pixels with another white balance and saturation, changed in this order in linear light.

    Args:
        pixels: (H, W, 3 or 4), uint8 or uint16.
        saturation: percent, -100 to 100. The distance of a colour from the grey of its luminance is multiplied by
            1 + saturation / 100; -100 makes it grey. A colour goes no farther than to the edge of sRGB, so its
            luminance and its direction from grey are kept.
        temperature: -100 (cool) to 100 (warm), in mireds; see `white_balance_gains`.
        tint: -100 (green) to 100 (magenta); see `white_balance_gains`.

    Raises:
        ConfigError: these are no pixels, or a parameter is out of its range.
    """
    check_pixels(pixels)
    for name, value in (("saturation", saturation), ("temperature", temperature), ("tint", tint)):
        check_range(name, value, -100, 100)
    if not any((saturation, temperature, tint)):
        return pixels.copy()
    # For each level and channel, the light after the white balance.
    light = np.minimum(to_linear(levels(pixels))[:, None] * white_balance_gains(temperature, tint), 1.0)
    if not saturation:
        return map_channels(pixels, from_linear(light))
    tables, factor = light.T.astype(np.float32), np.float32(1 + saturation / 100)

    def changed(block: Pixels, _: slice) -> Pixels:
        balanced = np.stack([table[plane] for table, plane in zip(tables, block, strict=True)])
        return encoded(_saturated(balanced, factor), block)

    return map_blocks(pixels, changed)


def _saturated(light: NDArray[np.float32], factor: np.float32 | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return colours (3, ...) moved from their grey by a factor (one, or (...)), but not out of 0 to 1."""
    grey = grey_of(light)
    away = light - grey
    tiny = np.float32(1e-12)
    most = np.maximum(np.maximum(away[0], away[1]), away[2])
    least = np.minimum(np.minimum(away[0], away[1]), away[2])
    room = np.minimum((1 - grey) / np.maximum(most, tiny), grey / np.maximum(-least, tiny))
    return grey + np.minimum(room, factor) * away


def adjust_hue_range(
    pixels: Pixels,
    hue: float,
    *,
    width: float = 60.0,
    shift: float = 0.0,
    saturation: float = 0.0,
    luminance: float = 0.0,
) -> Pixels:
    """Return pixels in which only colours of some hues are changed.

    A hue is an angle of HSV: 0 red, 60 yellow, 120 green, 180 cyan, 240 blue, 300 magenta. The weight of a colour falls
    from 1 at `hue` as a raised cosine, to 1/2 at half the width and to 0 at the width. So the weights of ranges that
    lie their width apart add up to 1. Colours beyond are exactly unchanged, and greys, which have no hue, too.

    Args:
        pixels: (H, W, 3 or 4), uint8 or uint16.
        hue: middle of the range in degrees, 0 to 360.
        width: degrees, 1 to 180.
        shift: degrees, -180 to 180, times the weight: turns the hue, with value and saturation of HSV kept.
        saturation: percent, -100 to 100, times the weight: as in `adjust_colour`.
        luminance: -100 to 100, times the weight and the saturation of HSV: 100 doubles linear light.

    Raises:
        ConfigError: these are no pixels, or a parameter is out of its range.
    """
    check_pixels(pixels)
    for name, value, low, high in (("hue", hue, 0, 360), ("width", width, 1, 180), ("shift", shift, -180, 180)):
        check_range(name, value, low, high)
    for name, value in (("saturation", saturation), ("luminance", luminance)):
        check_range(name, value, -100, 100)
    if not any((shift, saturation, luminance)):
        return pixels.copy()

    def changed(block: Pixels, _: slice) -> Pixels:
        near, angle, chroma, value, weight = _range_of_hues(fractions(block), hue, width)
        colours = block[:, near]
        if shift:
            colours = np.rint(_from_hue(angle + weight * shift, chroma, value) * 65535).astype(np.uint16)
        light = _saturated(linear_light(colours), 1 + weight * np.float32(saturation / 100))
        # In float64, for the last digit of a power differs between processors.
        stops = (weight * chroma / value).astype(np.float64) * (luminance / 100)
        out = block.copy()
        out[:, near] = encoded(light * np.exp2(stops).astype(np.float32), block)
        return out

    return map_blocks(pixels, changed)


def _range_of_hues(
    values: NDArray[np.float32], hue: float, width: float
) -> tuple[NDArray[np.bool_], _Plane, _Plane, _Plane, _Plane]:
    """Return where encoded colours, (3, ...), have a hue of a range; and hue, chroma, value and weight there, (n)."""
    angle, chroma, value = _hue(values)
    distance = np.abs((angle - hue + 180) % 360 - 180)
    near = (distance < width) & (chroma > 0)
    weight = (1 + np.cos(np.pi / width * distance[near].astype(np.float64))) / 2
    return near, angle[near], chroma[near], value[near], weight.astype(np.float32)


def _hue(values: NDArray[np.float32]) -> tuple[_Plane, _Plane, _Plane]:
    """Return hue (degrees), chroma (max - min) and value (max) of encoded colours (3, ...)."""
    red, green, blue = values
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    span = np.maximum(chroma, np.float32(1e-12))
    sector = np.where(
        value == red,
        (green - blue) / span,
        np.where(value == green, (blue - red) / span + 2, (red - green) / span + 4),
    )
    return (sector * 60 % 360).astype(np.float32), chroma, value


def _from_hue(angle: _Plane, chroma: _Plane, value: _Plane) -> _Plane:
    """Return the encoded colours (3, ...) of hue, chroma and value."""
    channels = []
    for offset in (5, 3, 1):
        turn = (offset + angle / 60) % 6
        channels.append(value - chroma * np.clip(np.minimum(turn, 4 - turn), 0, 1))
    return np.stack(channels).astype(np.float32)
