"""Masks for inpainting: the union of what was found, grown and softened. Mode L, white = change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image


def union(masks: Sequence[Image.Image]) -> Image.Image:
    """White wherever one of the masks (at least one, all of one size) is."""
    return Image.fromarray(np.maximum.reduce([np.asarray(mask.convert("L")) for mask in masks]))


def grow(mask: Image.Image, dilate: int, feather: int) -> Image.Image:
    """The mask grown by an ellipse of radius `dilate` pixels, then blurred by a Gaussian of sigma `feather` pixels."""
    import cv2

    values = np.asarray(mask)
    if dilate:
        size = 2 * dilate + 1
        values = cv2.dilate(values, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    if feather:
        values = cv2.GaussianBlur(values, (0, 0), feather)
    return Image.fromarray(np.asarray(values, dtype=np.uint8))
