"""Prepare masks for a model, and put its image back into the source."""

from __future__ import annotations

import numpy as np
from PIL import Image

from agentfly.images import on_white
from agentfly.vision.retouching import blend


def solid(mask: Image.Image) -> Image.Image:
    """Return a mask (mode L) that is white where `mask` is at least half as bright as at its brightest, else black."""
    values = np.asarray(mask).astype(np.uint16)
    return Image.fromarray(np.where(values * 2 >= max(1, int(values.max())), 255, 0).astype(np.uint8))


def paste_back(source: Image.Image, painted: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the source with a painted image blended in by the grey values of a mask.

    Pixels where the mask is 0 are exactly the source's, those where it is 255 exactly the painted ones.

    Args:
        source: any image.
        painted: any image; it is brought to the source's size.
        mask: mode L, the source's size.

    Returns:
        An image in RGB, or in RGBA with the source's alpha where it has one.
    """
    above = np.asarray(restored(painted, source.size))
    # Not on white: the source's alpha is put back, and its colours must be its own outside of the mask.
    blended = Image.fromarray(blend(np.asarray(source.convert("RGB")), above, np.asarray(mask)))
    if "A" in source.getbands():
        blended.putalpha(source.getchannel("A"))
    return blended


def restored(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a model's image in RGB at the size of its source (width, height), on white where it is transparent."""
    image = on_white(image)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
