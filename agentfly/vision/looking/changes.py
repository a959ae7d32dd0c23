"""Differences of two images, in levels of 0 to 255."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from agentfly.errors import ToolError
from agentfly.images import on_white
from agentfly.vision.looking.measures import Region, regions_of

# A pixel has changed if one of its channels differs by more: lossy files and resizing make smaller differences.
TOLERANCE = 10
# Shapes of one image at two sizes differ by rounding alone.
_SAME_SHAPE = 0.02


@dataclass(frozen=True)
class Change:
    """The change of some pixels.

    Attributes:
        share: of the pixels that changed by more than `TOLERANCE`, 0 to 1.
        mean, largest: change of a pixel, 0 to 255.
    """

    share: float
    mean: float
    largest: int


def scaled_to(image: Image.Image, size: tuple[int, int], name: str, other: str) -> Image.Image:
    """Return an image at the size of another one.

    Args:
        image: any image.
        size: width and height of the other one.
        name, other: names of the two, for the message.

    Raises:
        ToolError: their shapes differ, so that no pixel of one belongs to a pixel of the other.
    """
    if image.size == size:
        return image
    (width, height), (to_width, to_height) = image.size, size
    if abs(width * to_height - height * to_width) > _SAME_SHAPE * width * to_height:
        raise ToolError(
            f"{name} is {width}x{height} and {other} is {to_width}x{to_height}: "
            "their shapes differ, so look at them with side_by_side"
        )
    return image.resize(size, Image.Resampling.LANCZOS)


def change_map(before: Image.Image, after: Image.Image) -> NDArray[np.uint8]:
    """Return the change of each pixel (H, W): the largest difference of red, green, blue (on white) and alpha.

    Args:
        before, after: of one size, any mode.
    """
    gaps = list(ImageChops.difference(on_white(before), on_white(after)).split())
    if before.has_transparency_data or after.has_transparency_data:
        gaps.append(ImageChops.difference(*(image.convert("RGBA").getchannel("A") for image in (before, after))))
    return np.asarray(reduce(ImageChops.lighter, gaps))


def changed_regions(change: NDArray[np.uint8]) -> Sequence[Region]:
    """Return the regions of changed pixels, the largest first; the box of all if each of them is thin.

    Args:
        change: as of `change_map`.
    """
    changed = change > TOLERANCE
    regions, _ = regions_of(changed)
    if regions or not changed.any():
        return regions
    rows, columns = np.nonzero(changed)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return [Region(box, int(changed.sum()))]


def measure_change(change: NDArray[np.uint8], where: NDArray[np.bool_] | None = None) -> Change:
    """Return the change of some pixels in figures, all 0 for no pixels.

    Args:
        change: as of `change_map`.
        where: (H, W), the pixels that count; all by default.
    """
    values = change.ravel() if where is None else change[where]
    if not values.size:
        return Change(0.0, 0.0, 0)
    return Change(float((values > TOLERANCE).mean()), float(values.mean()), int(values.max()))
