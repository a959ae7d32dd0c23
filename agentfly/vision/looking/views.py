"""Images that are made to be seen: crops, images side by side, differences, histograms. All are in RGB.

A view costs a policy tokens by its area. So it is at most as large as the images that it shows, and never larger than a
limit; within that, small things are enlarged until they can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.errors import ToolError
from agentfly.images import on_white
from agentfly.vision.looking.changes import TOLERANCE
from agentfly.vision.looking.measures import Box, Tones

# Pixels that a view may have however small its image is, and the largest enlargement: beyond it nothing more is seen.
LEAST_PIXELS, MOST_TIMES = 64 * 64, 16
_GAP, _GAP_GREY = 4, 128
_HISTOGRAM_HEIGHT = 96


def view_budget(images: Sequence[Image.Image], most: int) -> int:
    """Return the number of pixels that a view of some images may have: as many as they in a row, within limits.

    Args:
        images: that the view shows, whole.
        most: pixels of the largest view.
    """
    gaps = _GAP * (len(images) - 1) * max(image.height for image in images)
    return min(most, max(LEAST_PIXELS, gaps + sum(image.width * image.height for image in images)))


def zoomed(image: Image.Image, box: Box, budget: int, *, exact: bool = False) -> tuple[Image.Image, float]:
    """Return a part of an image, enlarged or made smaller to fit a budget, and the factor.

    Lanczos resampling is the default: objects are recognised by smooth outlines, and the edges of large square pixels
    hide them. With `exact` each pixel becomes a square of its very colour, for looking at edges and single pixels.
    Factors from 1 on are rounded down to halves, with `exact` to whole numbers, so that coordinates stay simple.

    Args:
        image: any image.
        box: inside the image, not empty.
        budget: most pixels of the result.
        exact: repeat pixels instead of resampling.

    Raises:
        ToolError: with `exact`, the part alone has more pixels than the budget.
    """
    part = on_white(image.crop(box))
    factor = _rounded(math.sqrt(budget / (part.width * part.height)), 1 if exact else 2)
    if exact and factor < 1:
        raise ToolError(f"{part.width}x{part.height} is too large to show each pixel: choose a box of {budget} pixels")
    size = (max(1, math.floor(part.width * factor)), max(1, math.floor(part.height * factor)))
    if size == part.size:
        return part, 1.0
    return part.resize(size, Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS), factor


def side_by_side(images: Sequence[Image.Image], budget: int) -> tuple[Image.Image, float]:
    """Return images in a row, left to right, and the factor by which the tallest was scaled; the others get its height.

    A grey gap of 4 pixels is between them.

    Args:
        images: at least one, of any modes.
        budget: most pixels of the result.
    """
    height = max(image.height for image in images)
    widths = [image.width * height / image.height for image in images]
    # (W f + gaps) (H f) = budget, solved for the factor f.
    area, gaps = sum(widths) * height, _GAP * (len(images) - 1)
    root = math.sqrt((gaps * height) ** 2 + 4 * area * budget)
    factor = _rounded((root - gaps * height) / (2 * area), 2)
    tall = max(1, math.floor(height * factor))
    sizes = [(max(1, math.floor(width * factor)), tall) for width in widths]
    canvas = Image.new("RGB", (sum(width for width, _ in sizes) + gaps, tall), (_GAP_GREY,) * 3)
    left = 0
    for image, size in zip(images, sizes, strict=True):
        shown = on_white(image)
        canvas.paste(shown if shown.size == size else shown.resize(size, Image.Resampling.LANCZOS), (left, 0))
        left += size[0] + _GAP
    return canvas, factor


def difference_view(image: Image.Image, change: NDArray[np.uint8]) -> Image.Image:
    """Return a dark grey version of an image in which changed pixels are red, the brighter the more they changed.

    Args:
        image: after the change, any mode.
        change: of each pixel (H, W), as of `change_map`.
    """
    grey = np.asarray(on_white(image).convert("L")) // 2
    shown = np.stack([grey] * 3, axis=-1)
    changed = change > TOLERANCE
    shown[changed] = 0
    shown[changed, 0] = 128 + change[changed] // 2
    return Image.fromarray(shown)


def histogram_view(tones: Tones) -> Image.Image:
    """Return the histograms of red, green and blue, drawn over each other on black, 256x96; dark values are left.

    Heights are square roots, so that small numbers of pixels are seen beside large ones.

    Args:
        tones: as of `measure_tones`.
    """
    heights = np.sqrt(tones.counts / tones.counts.max())
    rows = np.arange(_HISTOGRAM_HEIGHT, 0, -1)[:, None, None]
    filled = rows <= np.ceil(heights.T * _HISTOGRAM_HEIGHT)[None]
    return Image.fromarray((filled * 255).astype(np.uint8))


def _rounded(factor: float, steps: int) -> float:
    """Return a factor; from 1 on it is rounded down to a number of steps per unit, and is at most `MOST_TIMES`."""
    # A row of whole images is to be shown as it is, not at 0.9999999.
    whole = math.floor((factor + 1e-9) * steps)
    return factor if whole < steps else min(whole / steps, float(MOST_TIMES))
