"""Images as the bytes, base64 texts and data URIs that other programs take, and back.

Encoding uses the fastest compression: a network is quicker than zlib, and a model waits for neither. Decoding goes
through `load_image`, so its limits hold for everything that a server or a client sends.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from io import BytesIO
from typing import Literal

from PIL import Image

from agentfly.errors import ImageError
from agentfly.images.base64_text import decode_base64
from agentfly.images.load import ImageLimits, load_image
from agentfly.images.pixels import on_white
from agentfly.images.png import FAST_PNG

Format = Literal["png", "jpeg", "webp"]
_OPTIONS: dict[Format, Mapping[str, int]] = {
    "png": FAST_PNG,
    "jpeg": {"quality": 95},
    "webp": {"quality": 95},
}


def encode_image(image: Image.Image, form: Format = "png", **options: int) -> bytes:
    """Return an image as the bytes of a file. JPEG has no transparency: what shines through is white there.

    Args:
        image: of any mode.
        form: of the file.
        **options: of Pillow's writer, such as `compress_level` or `quality`, in place of the usual ones.
    """
    if form == "jpeg":
        image = on_white(image)
    buffer = BytesIO()
    # The strategy of the fast level suits no other one.
    usual = {} if "compress_level" in options else _OPTIONS[form]
    image.save(buffer, form.upper(), **{**usual, **options})
    return buffer.getvalue()


def to_base64(image: Image.Image, form: Format = "png", **options: int) -> str:
    """Return an image as the base64 text of a file; see `encode_image`."""
    return base64.b64encode(encode_image(image, form, **options)).decode("ascii")


def data_uri(image: Image.Image, form: Format = "png", **options: int) -> str:
    """Return an image as a data URI, such as `data:image/png;base64,…`; see `encode_image`."""
    return f"data:image/{form};base64,{to_base64(image, form, **options)}"


def from_base64(text: str, limits: ImageLimits | None = None) -> Image.Image:
    """Return the image of a base64 text.

    Args:
        text: the base64 of an image file, with or without line breaks; never a path, a URL or a data URI.
        limits: see `load_image`.

    Raises:
        ImageError: the text is no base64, or not of an image within the limits.
    """
    data = decode_base64(text)
    if data is None:
        raise ImageError("this is not the base64 of an image: was it cut off?")
    return load_image(data, limits or ImageLimits())
