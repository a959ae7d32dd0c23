"""Images by the ids that a model gives: which may be looked at, which may be edited, and which may be the answer.

Ids tell the kind of an image (`agentfly.images.ImageView.add`): `img_1` was given, or made by an edit; `mask_1` marks a
part of one; `view_1` was made by a tool that looks, as a crop or a comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from agentfly.errors import ImageError, ToolError
from agentfly.images import ImageView, read_mask
from agentfly.vision.detection.boxes import clip_box

_MOST_NAMED = 8
_NOT_EDITED = {"view_": "only shows something", "mask_": "is a mask"}


def handle_of_id(images: ImageView, image_id: str) -> str:
    """Return the handle of an image of any kind.

    Args:
        images: of the chain.
        image_id: as the model gave it; a handle that the chain knows is accepted, too.

    Raises:
        ToolError: there is no such image; the message lists the ids.
    """
    try:
        return images.handle(image_id)
    except ImageError as fault:
        raise ToolError(str(fault)) from fault


def editable(images: ImageView, image_id: str) -> Image.Image:
    """Return a copy of an image that a tool is to edit.

    Args:
        images: of the chain.
        image_id: as the model gave it.

    Raises:
        ToolError: there is no such image, or it is a view or a mask; the message names the images to use instead.
        ImageError: the image is lost or damaged.
    """
    handle = handle_of_id(images, image_id)
    name = images.name(handle)
    for kind, what in _NOT_EDITED.items():
        if name.startswith(kind):
            raise ToolError(f"{name} {what}, so it cannot be edited: {_instead(images)}")
    return images.store.get(handle)


def answerable(images: ImageView, image_id: str) -> str:
    """Return the handle of an image that may be the answer of a chain: any but a view.

    Args:
        images: of the chain.
        image_id: as the model gave it.

    Raises:
        ToolError: there is no such image, or it is a view; the message names the images to use instead.
    """
    handle = handle_of_id(images, image_id)
    name = images.name(handle)
    if name.startswith("view_"):
        raise ToolError(f"{name} {_NOT_EDITED['view_']}, so it cannot be the answer: {_instead(images)}")
    return handle


def _instead(images: ImageView) -> str:
    # An image that was given or edited has an id of this kind, whatever else shows it.
    names = [name for name in images if name.startswith("img_") and name.removeprefix("img_").isdigit()]
    return f"use {' or '.join(names[-_MOST_NAMED:])}" if names else "this conversation has no other image"


def mask_of_id(
    images: ImageView, mask_id: str, remedy: str = "make one with shape_to_mask or detect_objects"
) -> Image.Image:
    """Return a mask in mode L, white = change.

    Args:
        images: of the chain.
        mask_id: as the model gave it.
        remedy: what to do where it is no mask, for the message.

    Raises:
        ToolError: there is no such image, or it is no mask.
        ImageError: the image is lost or damaged.
    """
    handle = handle_of_id(images, mask_id)
    mask = images.store.get(handle)
    # A mask that a tool made may be soft, and hold small numbers only, which are no labels.
    if mask.mode == "L" and any(name.startswith("mask_") for name in images.all_names(handle)):
        return mask
    try:
        return read_mask(mask).image
    except ImageError as fault:
        raise ToolError(f"{mask_id} is not a mask: {remedy}") from fault


def check_mask_size(mask_id: str, mask: tuple[int, int], image_id: str, size: tuple[int, int]) -> None:
    """Raise `ToolError` unless a mask has the size of an image.

    Args:
        mask_id, image_id: as the model gave them.
        mask, size: width and height of both.

    Raises:
        ToolError: the sizes differ.
    """
    if mask != size:
        raise ToolError(
            f"{mask_id} is {mask[0]}x{mask[1]} but {image_id} is {size[0]}x{size[1]}: use a mask of its size"
        )


def box_inside(box: Sequence[int], image_id: str, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a box cut to an image.

    Args:
        box: x0, y0, x1, y1 in pixels.
        image_id: as the model gave it, for the message.
        size: width and height of the image.

    Raises:
        ToolError: nothing of the box lies in the image.
    """
    x0, y0, x1, y1 = box
    inside = clip_box((x0, y0, x1, y1), size)
    if inside is None:
        raise ToolError(
            f"the box {list(box)} holds no pixel of {image_id}, which is {size[0]}x{size[1]}: give x0, y0, x1, y1 "
            "with x0 < x1 and y0 < y1"
        )
    return inside


def mask_for(images: ImageView, mask_id: str, image_id: str, size: tuple[int, int]) -> Image.Image:
    """Return a mask in mode L (white = change) for an edit of an image.

    Args:
        images: of the chain.
        mask_id: as the model gave it.
        image_id: the image to edit, for messages.
        size: width and height of that image.

    Raises:
        ToolError: there is no such image, it is no mask, it has another size than the image, or it is black.
        ImageError: the image is lost or damaged.
    """
    mask = mask_of_id(images, mask_id, f"give one that is white where {image_id} changes")
    check_mask_size(mask_id, mask.size, image_id, size)
    if mask.getbbox() is None:
        raise ToolError(f"{mask_id} is black, so nothing would change: use another mask")
    return mask
