"""Pixels and light: the sRGB transfer function, look-up tables, and work in blocks of rows.

Pixels are arrays of shape (H, W, 3) in RGB or (H, W, 4) in RGBA, of 8 or 16 bits, encoded in sRGB. *Linear light* is
what `to_linear` makes of them: proportional to radiance, from 0 (black) to 1 (white). All colour functions leave alpha
as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from agentfly.errors import ConfigError

Pixels: TypeAlias = NDArray[np.uint8 | np.uint16]
Floats: TypeAlias = NDArray[np.float32 | np.float64]

# Luminance of linear sRGB: the second row of its matrix to XYZ, IEC 61966-2-1.
LUMINANCE = (0.2126, 0.7152, 0.0722)
# Pixels of a block: all its copies in float32 together stay within some tens of megabytes.
_BLOCK = 1 << 18


def to_linear(values: Floats) -> Floats:
    """Return encoded sRGB values (0 to 1) as linear light: the transfer function of IEC 61966-2-1."""
    return np.where(values <= 0.04045, values / 12.92, ((np.maximum(values, 0.04045) + 0.055) / 1.055) ** 2.4)


def from_linear(light: Floats) -> Floats:
    """Return linear light (0 to 1) as encoded sRGB values: the inverse of `to_linear`."""
    root = np.maximum(light, 0.0031308) ** (1 / 2.4)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * root - 0.055)


def white_of(pixels: Pixels) -> int:
    """Return the value of white: 255 or 65535."""
    return int(np.iinfo(pixels.dtype).max)


def fractions(values: Pixels) -> NDArray[np.float32]:
    """Return integers of any shape as encoded values, 0 to 1."""
    return values.astype(np.float32) / np.float32(white_of(values))


def opacity(pixels: Pixels) -> NDArray[np.float32] | None:
    """Return alpha from 0 to 1, (H, W); None for pixels without alpha."""
    return fractions(pixels[..., 3]) if pixels.shape[2] == 4 else None


def check_pixels(pixels: Pixels) -> None:
    """Raise `ConfigError` unless an array has the shape and the type of pixels."""
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ConfigError(
            f"pixels are uint8 or uint16 arrays of shape (H, W, 3) or (H, W, 4), not {pixels.dtype} {pixels.shape}"
        )
    if not pixels.size:
        raise ConfigError(f"there are no pixels in an image of {pixels.shape[1]}x{pixels.shape[0]}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise `ConfigError` unless a parameter is a number within its range, ends included."""
    if not low <= value <= high:
        raise ConfigError(f"{name} is from {low:g} to {high:g}, not {value:g}")


def quantised(values: Floats, like: Pixels) -> Pixels:
    """Return encoded values (0 to 1, clipped) as integers of the type of `like`, rounded."""
    white = white_of(like)
    scaled: Pixels = np.rint(np.clip(values, 0, 1) * white).astype(like.dtype)
    return scaled


def levels(like: Pixels) -> NDArray[np.float64]:
    """Return every encoded value that pixels of a type can have, ascending: 0, 1/white, ..., 1."""
    white = white_of(like)
    return np.arange(white + 1) / white


def map_channels(pixels: Pixels, tables: Floats) -> Pixels:
    """Return pixels whose colours are looked up.

    Args:
        pixels: (H, W, 3 or 4).
        tables: encoded values (0 to 1) for each level: (levels,) for all channels, or (levels, 3).
    """
    table = quantised(tables, pixels)
    out = pixels.copy()
    for channel in range(3):
        column = table if table.ndim == 1 else table[:, channel]
        out[..., channel] = column[pixels[..., channel]]
    return out


@lru_cache(maxsize=2)
def _linear_table(white: int) -> NDArray[np.float32]:
    return to_linear(np.arange(white + 1) / white).astype(np.float32)


def linear_light(values: Pixels) -> NDArray[np.float32]:
    """Return integers of any shape, encoded in sRGB, as linear light."""
    return _linear_table(white_of(values))[values]


def encoded(light: NDArray[np.float32], like: Pixels) -> Pixels:
    """Return linear light, clipped to 0 to 1, as integers encoded in sRGB, of the type of `like`, rounded.

    Only compares light with the borders between levels. A power of each value would be slower, and differ between
    processors in the last digit, and so in the level where it lies next to a border.
    """
    cells, table, borders = _encoding(white_of(like))
    out = np.empty(light.shape, like.dtype)
    for rows in row_blocks(light.shape[0], math.prod(light.shape[1:])):
        part = np.clip(light[rows], 0, 1)
        low = table[(part * np.float32(cells)).astype(np.int32)]
        out[rows] = low + (part >= borders[low])
    return out


@lru_cache(maxsize=2)
def _encoding(white: int) -> tuple[int, Pixels, NDArray[np.float32]]:
    """Return a number of cells of equal light, the level at the start of each, and the light where each level ends.

    The cells are narrower than any level, so at most one border lies within each.
    """
    cells = 1 << (14 if white == 255 else 21)
    borders = to_linear((np.arange(white) + 0.5) / white).astype(np.float32)
    starts = (np.arange(cells + 1) / cells).astype(np.float32)
    table: Pixels = np.searchsorted(borders, starts, side="right").astype(np.uint8 if white == 255 else np.uint16)
    return cells, table, np.append(borders, np.float32(np.inf)).astype(np.float32)


def grey_of(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the luminance of linear light, or the luma of encoded values: (3, ...) -> (...)."""
    # No matrix product, whose order of summing differs between processors.
    red, green, blue = (plane * np.float32(weight) for plane, weight in zip(colours, LUMINANCE, strict=True))
    return red + green + blue


def map_blocks(pixels: Pixels, function: Callable[[Pixels, slice], Pixels]) -> Pixels:
    """Return pixels whose colours are computed block by block, so that the working memory is that of a block.

    Args:
        pixels: (H, W, 3 or 4).
        function: gets the colours of a block as planes, (3, rows, W), and which rows these are; returns the new ones.
            Planes, since NumPy is several times slower along a last axis of three.
    """
    out = pixels.copy()
    for rows in row_blocks(pixels.shape[0], pixels.shape[1]):
        planes = np.ascontiguousarray(np.moveaxis(pixels[rows, :, :3], 2, 0))
        out[rows, :, :3] = np.moveaxis(function(planes, rows), 0, 2)
    return out


def blend(before: Pixels, after: Pixels, mask: NDArray[np.uint8]) -> Pixels:
    """Return pixels between two images, by the grey values of a mask. Alpha is that of the first.

    Pixels where the mask is 0 are exactly the first's, those where it is 255 exactly the second's.

    Args:
        before: (H, W, 3 or 4).
        after: of the same type and size.
        mask: (H, W).
    """
    out = before.copy()
    for rows in row_blocks(mask.shape[0], mask.shape[1]):
        below = before[rows, :, :3].astype(np.float32)
        share = mask[rows, :, None] / np.float32(255)
        out[rows, :, :3] = np.rint(below + share * (after[rows, :, :3] - below)).astype(before.dtype)
    return out


def row_blocks(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of an array in blocks of about 260,000 values."""
    step = max(1, _BLOCK // max(1, width))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))
