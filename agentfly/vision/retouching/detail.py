"""Detail: Gaussian blur, unsharp masking and film grain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agentfly.vision.retouching.light import (
    Pixels,
    check_pixels,
    check_range,
    encoded,
    fractions,
    grey_of,
    linear_light,
    map_blocks,
    opacity,
    quantised,
    row_blocks,
)

MOST_SIGMA, MOST_SHARPNESS, MOST_GRAIN = 50.0, 300.0, 100.0
# Standard deviation of the strongest grain in the middle greys, in encoded values.
_STRONGEST_GRAIN = 0.2


def blur(pixels: Pixels, sigma: float) -> Pixels:
    """Return pixels blurred by a Gaussian in linear light, as a lens out of focus mixes light.

    The edge is mirrored, so the mean of the light stays. A colour counts as much as it is opaque: what a transparent
    pixel hides does not come out.

    Args:
        pixels: (H, W, 3 or 4), uint8 or uint16.
        sigma: standard deviation of the Gaussian in pixels, 0 to 50.

    Raises:
        ConfigError: these are no pixels, or `sigma` is out of its range.
    """
    check_pixels(pixels)
    check_range("sigma", sigma, 0, MOST_SIGMA)
    out = pixels.copy()
    if sigma:
        opaque = opacity(pixels)
        share = None if opaque is None else _gaussian(opaque, sigma)
        for channel in range(3):
            light = linear_light(pixels[..., channel])
            out[..., channel] = encoded(_weighted(light, opaque, share, sigma), pixels)
    return out


def sharpen(pixels: Pixels, amount: float, *, radius: float = 1.0) -> Pixels:
    """Return pixels sharpened by an unsharp mask.

    What the encoded luma has beyond its own Gaussian blur is added to the three channels, so edges get no fringes of
    colour, and plain areas stay exactly as they are.

    Args:
        pixels: (H, W, 3 or 4), uint8 or uint16.
        amount: percent of the difference that is added, 0 to 300.
        radius: sigma of the Gaussian in pixels, 0.1 to 50.

    Raises:
        ConfigError: these are no pixels, or a parameter is out of its range.
    """
    check_pixels(pixels)
    check_range("amount", amount, 0, MOST_SHARPNESS)
    check_range("radius", radius, 0.1, MOST_SIGMA)
    if not amount:
        return pixels.copy()
    luma = np.empty(pixels.shape[:2], np.float32)
    for rows in row_blocks(pixels.shape[0], pixels.shape[1]):
        luma[rows] = grey_of(fractions(np.moveaxis(pixels[rows, :, :3], 2, 0)))
    opaque = opacity(pixels)
    share = None if opaque is None else _gaussian(opaque, radius)
    detail = (luma - _weighted(luma, opaque, share, radius)) * np.float32(amount / 100)
    return map_blocks(pixels, lambda block, rows: quantised(fractions(block) + detail[rows], block))


def add_grain(pixels: Pixels, amount: float, *, seed: int = 0) -> Pixels:
    """Return pixels with grey grain like that of film: strongest in the middle tones, none in black and white.

    The same noise is added to the three channels of a pixel, in encoded values: normally distributed with a standard
    deviation of amount / 100 * 0.2 * 4 * y * (1 - y), where y is the luma of the pixel. It is cut at three deviations.

    Args:
        pixels: (H, W, 3 or 4), uint8 or uint16.
        amount: percent, 0 to 100.
        seed: 0 to 2 ** 32 - 1; the same seed gives the same grain.

    Raises:
        ConfigError: these are no pixels, or a parameter is out of its range.
    """
    check_pixels(pixels)
    check_range("amount", amount, 0, MOST_GRAIN)
    check_range("seed", seed, 0, 2**32 - 1)
    if not amount:
        return pixels.copy()
    # NumPy promises the numbers of this generator for all its versions, which a new `Generator` does not.
    random = np.random.RandomState(seed)
    strength = np.float32(amount / 100 * _STRONGEST_GRAIN * 4)

    def grained(block: Pixels, _: slice) -> Pixels:
        values = fractions(block)
        luma = grey_of(values)
        noise = random.standard_normal(luma.shape).clip(-3, 3).astype(np.float32)
        return quantised(values + strength * luma * (1 - luma) * noise, block)

    return map_blocks(pixels, grained)


def _weighted(
    values: NDArray[np.float32], opaque: NDArray[np.float32] | None, share: NDArray[np.float32] | None, sigma: float
) -> NDArray[np.float32]:
    """Return values blurred, each with the weight of its opacity; unchanged where nothing opaque is near.

    Args:
        values: (H, W).
        opaque: their weights; None if all are 1.
        share: the weights blurred.
        sigma: of the Gaussian, in pixels.
    """
    if opaque is None or share is None:
        return _gaussian(values, sigma)
    seen = share > 1e-6
    return np.where(seen, _gaussian(values * opaque, sigma) / np.where(seen, share, 1), values)


def _gaussian(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    import cv2

    # Mirrored with the edge itself twice: only so every value keeps its whole weight, and the mean stays.
    made = cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(made, np.float32).reshape(values.shape)
