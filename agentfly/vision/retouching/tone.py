"""Tone: exposure, contrast, highlights and shadows, as one curve for the three channels.

All four together are one table with an entry for each level, computed in float64. So they cost the same as one, and
nothing is rounded or clipped between them but by the exposure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agentfly.vision.retouching.light import (
    Pixels,
    check_pixels,
    check_range,
    from_linear,
    levels,
    map_channels,
    to_linear,
)

MOST_STOPS, MOST_PERCENT = 5.0, 100.0


def adjust_tone(
    pixels: Pixels,
    *,
    exposure: float = 0.0,
    contrast: float = 0.0,
    highlights: float = 0.0,
    shadows: float = 0.0,
) -> Pixels:
    """Return pixels with another tone. The parameters act in this order: exposure, highlights and shadows, contrast.

    Every curve is monotone, and leaves black at 0. All but the exposure leave white at 1.

    Args:
        pixels: (H, W, 3 or 4), uint8 or uint16.
        exposure: stops, -5 to 5; linear light is multiplied by 2 ** exposure, and clipped at white.
        contrast: -100 to 100. In encoded values the odds x / (1 - x) are raised to the power 2 ** (contrast / 100): an
            S through black, the middle 1/2 (where it has that slope) and white. The negative contrast undoes it.
        highlights: -100 to 100. Moves encoded values by highlights / 100 * x ** 3 * (1 - x), most at 3/4, by 0.105.
        shadows: -100 to 100. Moves encoded values by shadows / 100 * x * (1 - x) ** 3, most at 1/4, by 0.105.

    Raises:
        ConfigError: these are no pixels, or a parameter is out of its range.
    """
    check_pixels(pixels)
    check_range("exposure", exposure, -MOST_STOPS, MOST_STOPS)
    for name, value in (("contrast", contrast), ("highlights", highlights), ("shadows", shadows)):
        check_range(name, value, -MOST_PERCENT, MOST_PERCENT)
    if not any((exposure, contrast, highlights, shadows)):
        return pixels.copy()
    values = levels(pixels)
    if exposure:
        values = np.asarray(from_linear(np.minimum(to_linear(values) * 2.0**exposure, 1.0)), np.float64)
    if highlights or shadows:
        # A Bernstein polynomial of degree 4 whose second and fourth coefficients, 1/4 and 3/4, are moved by a quarter
        # of the parameters. The coefficients keep their order up to 100 percent, so the curve is monotone.
        up, down = values, 1 - values
        values = values + (highlights / 100) * up**3 * down + (shadows / 100) * up * down**3
    if contrast:
        values = _s_curve(values, 2.0 ** (contrast / 100))
    return map_channels(pixels, values)


def _s_curve(values: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    up, down = values**power, (1 - values) ** power
    return up / (up + down)
