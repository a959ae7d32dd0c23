"""Convert the masks of public data sets to our form: mode L, white where the image must change."""

from __future__ import annotations

import numpy as np
from PIL import Image

from agentfly.errors import DatasetError
from agentfly.images import ImageSource, load_image


def mask_from_cutout(source: ImageSource) -> Image.Image:
    """Return the mask of an image whose edited region is transparent or, where transparency was lost, pure black.

    MagicBrush and HumanEdit publish masks in this form, which DALL-E took. In an image of black and white alone, black
    is the edited region too, as in HumanEdit's own `mask_convert.py`.

    Raises:
        ImageError: the source is no image.
    """
    image = load_image(source)
    if image.mode == "RGBA":
        alpha = np.asarray(image)[..., 3]
        if (alpha < 255).any():
            return Image.fromarray(np.where(alpha < 255, 255, 0).astype(np.uint8))
    pixels = np.asarray(image.convert("RGB"))
    return Image.fromarray(np.where(pixels.any(axis=2), 0, 255).astype(np.uint8))


def mask_from_runs(text: str, size: tuple[int, int] = (512, 512)) -> Image.Image:
    """Return the mask of PIE-Bench's runs "start length start length ...", which mark the edited pixels row by row.

    The benchmark's own scorer also marks the outermost pixels, to correct errors of annotation. Here they stay as they
    were annotated.

    Args:
        text: the runs; empty for no edited region.
        size: width and height; PIE-Bench's images are 512 x 512.

    Raises:
        DatasetError: the text is no list of runs, or a run starts outside the image.
    """
    width, height = size
    try:
        numbers = np.array([int(word) for word in text.replace(",", " ").strip("[] ").split()], dtype=np.int64)
    except (ValueError, OverflowError) as fault:
        raise DatasetError("the mask is not a list of whole numbers 'start length start length ...'") from fault
    starts, lengths = numbers[::2], numbers[1::2]
    if len(starts) != len(lengths) or (numbers < 0).any() or (starts >= width * height).any():
        raise DatasetError(f"the mask holds a run that does not fit into {width}x{height} pixels")
    flat = np.zeros(width * height, dtype=np.uint8)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        flat[start : start + length] = 255
    return Image.fromarray(flat.reshape(height, width))
