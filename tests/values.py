"""Values of which a test knows more than their types say."""

from __future__ import annotations

from typing import TypeVar

from PIL import Image

from agentfly.images import ImageSource, load_image

T = TypeVar("T")


def given(value: T | None) -> T:
    """Return a value that is not None."""
    assert value is not None
    return value


def as_image(source: object) -> Image.Image:
    """Return the source of an image that is in memory already, such as those of the sticker world."""
    assert isinstance(source, Image.Image)
    return source


def loaded(source: ImageSource | None) -> Image.Image:
    """Load an image that is there."""
    assert source is not None
    return load_image(source)


def pixel(image: Image.Image, place: tuple[int, int]) -> tuple[int, ...]:
    """Return the channels of a pixel, also of an image that has only one."""
    found = image.getpixel(place)
    return found if isinstance(found, tuple) else (int(given(found)),)
