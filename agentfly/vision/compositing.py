"""Prepare masks for a model, put its image back into the source, and paste a region of one image into another."""

from __future__ import annotations

import numpy as np
from PIL import Image

from agentfly.images import on_white
from agentfly.vision.detection.boxes import clip_box
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


def paste_region(
    target: Image.Image, region: Image.Image, corner: tuple[int, int], scale: float = 1.0
) -> tuple[Image.Image, tuple[int, int, int, int] | None]:
    """Return an image with a region pasted over it by the region's alpha ("over", Porter and Duff, 1984).

    Pixels where the alpha is 0 are exactly the target's, colours of hidden ones included. Where it is 255, and `scale`
    is 1, they are exactly the region's.

    Args:
        target: any image of mode L, RGB or RGBA; it is not changed.
        region: RGBA, any size.
        corner: x and y of the region's top left corner in the target, in pixels; may lie outside.
        scale: factor of the region's size.

    Returns:
        An image in RGBA where the target has an alpha channel, else in RGB; and the box of the target that the region
        covers, None where all of it is outside.
    """
    if scale != 1.0:
        size = max(1, round(region.width * scale)), max(1, round(region.height * scale))
        # Pillow weighs the colours by the alpha, so that what is cut away does not bleed into the edge.
        region = region.resize(size, Image.Resampling.LANCZOS)
    box = clip_box((*corner, corner[0] + region.width, corner[1] + region.height), target.size)
    pasted = target.convert("RGBA")
    if box is not None:
        inside = region.crop((box[0] - corner[0], box[1] - corner[1], box[2] - corner[0], box[3] - corner[1]))
        pasted.alpha_composite(inside, box[:2])
    return (pasted if target.mode == "RGBA" else pasted.convert("RGB")), box
