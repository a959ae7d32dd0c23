"""Names, figures and shares of colours.

Names follow lightness, chroma and hue in Oklab (B. Ottosson, "A perceptual color space for image processing", 2020),
where a hue keeps its name at every lightness, as it does not in CIE Lab: blue turns to purple there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.images import on_white

Pixels = NDArray[np.uint8]

NAMES: tuple[str, ...] = (
    "black",
    "white",
    "grey",
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
    "brown",
    "beige",
)
# Steps of a channel that share a name, and a bin of `dominant_colours`.
_SHIFT = 3
_STEPS = 256 >> _SHIFT
# Distance in Oklab up to which colours are taken together, and the number of groups that are formed at most.
_NEAR, _MOST_GROUPS = 0.12, 32
_MOST_LOOKED_AT = 1024 * 1024
# Ottosson's matrices: linear sRGB to cone responses, and their cube roots to lightness, a and b.
_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


@dataclass(frozen=True)
class PointColour:
    """The colour of a point.

    Attributes:
        name: one of `NAMES`.
        rgb: red, green and blue, 0 to 255, on white where the image is transparent.
        lab: lightness (0 to 100), a and b of CIE Lab (D65).
        alpha: 0 (clear) to 255.
    """

    name: str
    rgb: tuple[int, int, int]
    lab: tuple[float, float, float]
    alpha: int = 255

    @property
    def hex(self) -> str:
        """The colour as `#rrggbb`."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


@dataclass(frozen=True)
class ColourShare:
    """A group of similar colours: its name, its mean colour, and its share of the visible pixels, 0 to 1."""

    name: str
    rgb: tuple[int, int, int]
    share: float

    @property
    def hex(self) -> str:
        """The colour as `#rrggbb`."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


def to_oklab(rgb: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return sRGB colours (..., 3) of 0 to 255 in Oklab, of the same shape; lightness is 0 to 1."""
    values = rgb.astype(np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    oklab: NDArray[np.float64] = np.cbrt(linear @ np.transpose(_TO_CONES)) @ np.transpose(_TO_OKLAB)
    return oklab


def visible(image: Image.Image) -> NDArray[np.bool_]:
    """Return where an image is at least half opaque, (H, W)."""
    if not image.has_transparency_data:
        return np.ones((image.height, image.width), np.bool_)
    return np.asarray(image.convert("RGBA").getchannel("A")) >= 128


def colour_names(image: Image.Image) -> Pixels:
    """Return the name of each pixel's colour as an index (H, W) into `NAMES`."""
    names: Pixels = _table()[_bins(np.asarray(on_white(image)))]
    return names


def colour_of(image: Image.Image, x: int, y: int) -> PointColour:
    """Return the colour of a point.

    Args:
        image: any image.
        x, y: of a pixel inside it.
    """
    pixel = image.crop((x, y, x + 1, y + 1))
    rgb = np.asarray(on_white(pixel))
    alpha = np.asarray(pixel.convert("RGBA"))[0, 0, 3] if pixel.has_transparency_data else 255
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    name = NAMES[int(colour_names(pixel)[0, 0])]
    red, green, blue = (int(value) for value in rgb[0, 0])
    lightness, a, b = (round(float(value), 1) + 0.0 for value in lab)
    return PointColour(name, (red, green, blue), (lightness, a, b), int(alpha))


def dominant_colours(image: Image.Image) -> tuple[ColourShare, ...]:
    """Return the colours of the visible pixels, the most frequent first; none if the whole image is transparent.

    The most frequent colour takes in those that are near to it, then the most frequent of the others, and so on.
    The shares add up to 1, unless the image has more colours than are told apart. Of an image of more than a million
    pixels every second, third, ... one is looked at in each direction.

    Args:
        image: any image.
    """
    step = math.ceil(math.sqrt(image.width * image.height / _MOST_LOOKED_AT))
    pixels = np.asarray(on_white(image))[::step, ::step][visible(image)[::step, ::step]]
    if not len(pixels):
        return ()
    bins = _bins(pixels)
    counts = np.bincount(bins, minlength=_STEPS**3)
    used = np.flatnonzero(counts)
    weights = counts[used].astype(np.float64)
    sums = [np.bincount(bins, weights=pixels[..., channel], minlength=_STEPS**3)[used] for channel in range(3)]
    colours = np.stack(sums, axis=1) / weights[:, None]
    oklab, left = to_oklab(colours), np.ones(len(used), np.bool_)
    found: list[ColourShare] = []
    while left.any() and len(found) < _MOST_GROUPS:
        leader = int(np.argmax(np.where(left, weights, 0)))
        near = left & (np.linalg.norm(oklab - oklab[leader], axis=1) <= _NEAR)
        mean = (colours[near] * weights[near, None]).sum(axis=0) / weights[near].sum()
        red, green, blue = (int(value) for value in np.round(mean))
        name = NAMES[int(_table()[_bins(np.array([[red, green, blue]], np.uint8))[0]])]
        found.append(ColourShare(name, (red, green, blue), float(weights[near].sum() / len(pixels))))
        left &= ~near
    return tuple(sorted(found, key=lambda group: (-group.share, group.rgb)))


def _bins(rgb: Pixels) -> NDArray[np.uint16]:
    """Return the number of the bin of colours (..., 3)."""
    steps = (rgb >> _SHIFT).astype(np.uint16)
    numbers: NDArray[np.uint16] = (steps[..., 0] * _STEPS + steps[..., 1]) * _STEPS + steps[..., 2]
    return numbers


@lru_cache(maxsize=1)
def _table() -> Pixels:
    """Return the index of the name of each bin, (bins,)."""
    steps = np.arange(_STEPS) * 255 / (_STEPS - 1)
    oklab = to_oklab(np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3))
    light, chroma = oklab[:, 0], np.hypot(oklab[:, 1], oklab[:, 2])
    hue = np.degrees(np.arctan2(oklab[:, 2], oklab[:, 1])) % 360
    grey, rosy = chroma < np.where(light < 0.9, 0.035, 0.02), (hue < 20) | (hue >= 340)
    # The first rule that fits gives the name; hues are degrees in Oklab.
    rules = (
        ((light < 0.2) | (grey & (light < 0.3)), "black"),
        (grey & (light > 0.94), "white"),
        (grey, "grey"),
        (rosy & (light > 0.6), "pink"),
        ((hue < 36) & ((light > 0.7) | ((light > 0.66) & (chroma < 0.15))), "pink"),
        ((hue < 36) | (hue >= 355), "red"),
        ((hue < 85) & ((light > 0.6) & (chroma < np.where(light > 0.72, 0.09, 0.06))), "beige"),
        # Dark orange is brown, but not where it glows.
        ((hue < 95) & (light < 0.68) & ((hue >= 45) | (chroma <= 0.16)), "brown"),
        (hue < np.where(chroma < 0.1, 85, 80), "orange"),
        ((hue < 114) & (light > 0.68), "yellow"),
        (hue < 172, "green"),
        (hue < 222, "cyan"),
        (hue < 290, "blue"),
        (hue < 355, "purple"),
    )
    found = np.select([fits for fits, _ in rules], [NAMES.index(name) for _, name in rules])
    table: Pixels = found.astype(np.uint8)
    table.setflags(write=False)
    return table
