"""Small images and files for the tests of data sets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (24, 16)


def make_image(shade: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """An image that no other shade gives, without any black pixel."""
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x + 40, y + 40, np.full_like(x, 60 + shade)], axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The bytes of its file."""
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def cutout(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The image with a box erased to transparent black, as DALL-E took its masks."""
    pixels = np.array(image.convert("RGBA"))
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = 0
    return Image.fromarray(pixels)


def cell(image: Image.Image) -> dict[str, Any]:
    """A cell of an image column, as the hub's parquet files hold it."""
    return {"bytes": encoded(image), "path": None}


def write_parquet(path: Path, rows: list[dict[str, Any]], images: tuple[str, ...] = ()) -> Path:
    """A parquet file with image columns of the hub's type."""
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list(rows)
    for column in images:
        table = table.cast_column(column, datasets.Image(decode=False))
    table.to_parquet(str(path))
    return path


def white_box(mask: Image.Image) -> tuple[int, int, int, int] | None:
    """Where a mask is white."""
    return mask.convert("L").getbbox()
