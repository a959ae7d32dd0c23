"""Prepare pixels for a model, and put its image back into the source."""

from __future__ import annotations

import numpy as np
from PIL import Image


def solid(mask: Image.Image) -> Image.Image:
    """White where a mask (mode L) is at least half as bright as at its brightest, black elsewhere."""
    values = np.asarray(mask).astype(np.uint16)
    return Image.fromarray(np.where(values * 2 >= max(1, int(values.max())), 255, 0).astype(np.uint8))


def paste_back(source: Image.Image, painted: Image.Image, mask: Image.Image) -> Image.Image:
    """The source with `painted` blended in by the grey values of `mask` (mode L, the source's size).

    Pixels where the mask is 0 are exactly the source's, those where it is 255 exactly the painted ones. RGB, or RGBA
    with the source's alpha where it has one.
    """
    above = np.asarray(restored(painted, source.size), np.float32)
    below = np.asarray(source.convert("RGB"), np.float32)
    share = np.asarray(mask, np.float32)[..., None] / 255.0
    blended = Image.fromarray(np.round(below + share * (above - below)).astype(np.uint8))
    if "A" in source.getbands():
        blended.putalpha(source.getchannel("A"))
    return blended


def flattened(image: Image.Image) -> Image.Image:
    """The image as RGB, on white where it is transparent."""
    if "A" not in image.getbands():
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def restored(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A model's image (RGB) at the size of its source."""
    image = image.convert("RGB")
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
