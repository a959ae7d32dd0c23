"""Images of the tool cache as files.

Colour images are files of bare pixels: decoding the PNG of a photograph takes 12 ms at 512 x 512, a hundred times as
long as reading the pixels, which take less than twice its room. Masks are PNG: nearly flat, they are decoded quickly
and are a hundredth of their pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from agentfly.images import encode_image
from agentfly.images.store import image_hash

_BYTES = {"RGB": 3, "RGBA": 4}


@dataclass(frozen=True)
class ImageFile:
    """An image as it is written.

    Attributes:
        suffix: of the file.
        content: of the file.
        described: what reads it again, for JSON.
    """

    suffix: str
    content: bytes
    described: Mapping[str, object]


def as_file(image: Image.Image) -> ImageFile:
    """Return the file of an image in one of the modes of `normalise`."""
    if image.mode not in _BYTES:
        return ImageFile(".png", encode_image(image), {"hash": image_hash(image)})
    pixels = image.tobytes()
    described = {"mode": image.mode, "size": list(image.size), "crc32": zlib.crc32(pixels)}
    return ImageFile(".pixels", pixels, described)


def read_image(stem: Path, described: Mapping[str, Any] | None) -> Image.Image:
    """Return the image of a file.

    Args:
        stem: path of the file without its suffix.
        described: see `ImageFile`; None for a PNG file of version 0.1, which is not compared.

    Raises:
        FileNotFoundError: there is no file.
        Exception: any other one says that the file or its description is broken.
    """
    if described is None or "hash" in described:
        with Image.open(stem.with_name(f"{stem.name}.png"), formats=("PNG",)) as file:
            image = file.copy()
        if described is not None and described["hash"] != image_hash(image):
            raise ValueError(f"{stem.name}.png is another image than was stored")
        return image
    mode = described["mode"]
    width, height = described["size"]
    size = width * height * _BYTES[mode]
    with stem.with_name(f"{stem.name}.pixels").open("rb") as file:
        pixels = file.read(size + 1)
    if len(pixels) != size or zlib.crc32(pixels) != described["crc32"]:
        raise ValueError(f"{stem.name}.pixels holds other pixels than were stored")
    return Image.frombytes(mode, (width, height), pixels)
