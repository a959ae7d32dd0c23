"""Arguments and results of a tool that are images: the model writes and reads ids, the function gets and gives images.

@tool
def brighten(image: Image.Image, stops: float = 0.5) -> Image.Image: ...
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from PIL import Image

from agentfly.images import ImageView

DESCRIPTION = "id of an image"


def takes_image(hint: object) -> bool:
    """Return True for the hint `PIL.Image.Image`, alone or with None."""
    if get_origin(hint) in (Union, UnionType):
        return {arg for arg in get_args(hint) if arg is not NoneType} == {Image.Image}
    return hint is Image.Image


def as_id(hint: object) -> object:
    """Return the hint of the id that a model gives for an image."""
    return str | None if NoneType in get_args(hint) else str


def load_images(view: ImageView, names: tuple[str, ...], arguments: Mapping[str, object]) -> dict[str, object]:
    """Return arguments with images in place of their ids.

    Args:
        view: the images of the chain.
        names: arguments that take an image.
        arguments: checked.

    Raises:
        ImageError: an id is unknown; the message lists those that are known.
    """
    loaded = {name: view.get(given) for name in names if isinstance(given := arguments.get(name), str)}
    return {**arguments, **loaded}


def source_handle(view: ImageView, names: tuple[str, ...], arguments: Mapping[str, object]) -> str | None:
    """Return the handle of the first image that a call names, None where it names none."""
    given = (arguments.get(name) for name in names)
    return next((view.handle(name) for name in given if isinstance(name, str)), None)


def image_results(value: object) -> tuple[str, list[Image.Image]] | None:
    """Return words and images of a result that has images: an image, several, or `(text, image, ...)`; else None."""
    parts = list(value) if isinstance(value, (tuple, list)) else [value]
    words = str(parts.pop(0)) if len(parts) > 1 and isinstance(parts[0], str) else ""
    images = [part for part in parts if isinstance(part, Image.Image)]
    return (words, images) if images and len(images) == len(parts) else None
