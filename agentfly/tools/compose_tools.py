"""Tools that compose images: paste, masks by algebra and shape, alpha, and edits with several reference images.

All but the last are exact and deterministic: they use no engine. The docstrings of the tools are their schemas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Annotated, Literal

import numpy as np
from PIL import Image, ImageChops, ImageColor
from pydantic import AfterValidator, Field

from agentfly.errors import ToolError, shortened
from agentfly.images import ImageView
from agentfly.tools.decorator import ToolResult, percent, tool
from agentfly.tools.image_ids import box_inside, check_mask_size, editable, handle_of_id, mask_of_id
from agentfly.tools.image_tools import Scale, Seed, Steps, check_prompt, make_mask
from agentfly.vision.base import MOST_IMAGES, EditParams, Engines, edit_images, given_params
from agentfly.vision.compositing import paste_region
from agentfly.vision.detection.boxes import box_mask


def _bounded(value: int) -> int:
    if abs(value) > _FARTHEST:
        raise ValueError(f"must be between -{_FARTHEST} and {_FARTHEST}")
    return value


_FARTHEST = 16_384
# Not in the schema: bounds that no call comes near would cost a policy tokens in every prompt.
Coordinate = Annotated[int, AfterValidator(_bounded)]
Box = Annotated[list[Coordinate], Field(min_length=4, max_length=4)]
Place = Coordinate | None
Factor = Annotated[float, Field(ge=0.01, le=16)]
Share = Annotated[float, Field(gt=0, le=1)]
# The time of growing and blurring goes up with the square of the radius: seconds at 128, for a megapixel.
Growth = Annotated[int, Field(ge=-128, le=128)]
Radius = Annotated[int, Field(ge=0, le=128)]
Ids = Annotated[list[str], Field(min_length=1, max_length=MOST_IMAGES)]
MaskIds = Annotated[list[str], Field(min_length=2, max_length=MOST_IMAGES)]

_MOST_PIXELS = 16_000_000
_OPAQUE = "{} has no transparent part: cut something out of it first"
_COMBINE: Mapping[str, Callable[[Image.Image, Image.Image], Image.Image]] = {
    "union": ImageChops.lighter,
    "intersection": ImageChops.darker,
    "difference": lambda first, other: ImageChops.darker(first, ImageChops.invert(other)),
}


class ComposeTools:
    """Tools that make one image, or one mask, of several.

    Args:
        images: the images that the chain can name; new ones are added to it.
        engines: the editor does the edits with references; nothing else needs an engine.
    """

    def __init__(self, images: ImageView, engines: Engines) -> None:
        self._images = images
        self._engines = engines

    @tool
    async def paste_image(
        self,
        image_id: str,
        source_id: str,
        source_mask_id: str | None = None,
        source_box: Box | None = None,
        x: Place = None,
        y: Place = None,
        scale: Factor = 1.0,
        opacity: Share = 1.0,
    ) -> ToolResult:
        """Paste a part of one image into another. All other pixels stay exactly as they are.

        Args:
            image_id: the image to change.
            source_id: the image to take the part from.
            source_mask_id: a mask of the source, white where it is taken, grey where it shows partly.
            source_box: x0, y0, x1, y1 of the part in pixels of the source.
            x: left edge of the part in the changed image; its own place in the source by default.
            y: top edge of the part in the changed image; its own place in the source by default.
            scale: factor of the size of the part.
            opacity: 1 covers what is below.
        """
        target = await asyncio.to_thread(editable, self._images, image_id)
        source = await self._load(source_id)
        mask = None if source_mask_id is None else await self._mask(source_mask_id, source_id, source.size)
        part, box = await asyncio.to_thread(_cut, source, mask, source_box, opacity, source_mask_id or source_id)
        if scale != 1.0 and part.width * part.height * scale**2 > _MOST_PIXELS:
            raise ToolError(f"the part is {part.width}x{part.height}, too large for scale {scale:g}: lower scale")
        corner = box[0] if x is None else x, box[1] if y is None else y
        pasted, covered = await asyncio.to_thread(paste_region, target, part, corner, scale)
        if covered is None:
            raise ToolError(
                f"the part would lie outside of {image_id}, which is {target.width}x{target.height}: choose x and y "
                "inside of it"
            )
        if (target.mode, source.mode) == ("L", "L"):
            pasted = pasted.convert("L")
        references = [handle_of_id(self._images, source_id)]
        data = {"references": references, "source_box": list(box), "box": list(covered)}
        return await self._changed(image_id, pasted, f"pasted at {list(covered)}", data)

    @tool(looks=True)
    async def combine_masks(
        self, mask_ids: MaskIds, operation: Literal["union", "intersection", "difference"]
    ) -> ToolResult:
        """Make one mask of several masks of the same size.

        Args:
            mask_ids: the masks, in order.
            operation: union covers what any mask covers, intersection what all cover, difference what the first mask
                covers and no other.
        """
        first, *others = [await self._mask(mask_ids[0]), *[await self._mask(name) for name in mask_ids[1:]]]
        for name, other in zip(mask_ids[1:], others, strict=True):
            check_mask_size(name, other.size, mask_ids[0], first.size)
        return await self._made_mask(await asyncio.to_thread(reduce, _COMBINE[operation], others, first))

    @tool(looks=True)
    async def change_mask(
        self, mask_id: str, invert: bool = False, grow: Growth = 0, feather: Radius = 0
    ) -> ToolResult:
        """Invert a mask, then grow or shrink it, then soften its edge; each only if asked for.

        Args:
            mask_id: the mask to start from.
            invert: cover what the mask leaves free.
            grow: pixels by which the mask grows; below 0 it shrinks.
            feather: pixels over which its edge is softened.
        """
        if not (invert or grow or feather):
            raise ToolError("nothing to change: give invert, grow or feather")
        mask = await self._mask(mask_id)
        return await self._made_mask(await asyncio.to_thread(_reshaped, mask, invert, grow, feather))

    @tool(looks=True)
    async def shape_to_mask(self, image_id: str, shape: Literal["box", "ellipse"], box: Box) -> ToolResult:
        """Make a mask of an image's size that covers a box, or the ellipse in it.

        Args:
            image_id: the image that the mask is for.
            shape: the figure.
            box: x0, y0, x1, y1 in pixels of the image.
        """
        image = await self._load(image_id)
        box_inside(box, image_id, image.size)
        return await self._made_mask(await asyncio.to_thread(_figure, shape, box, image.size))

    @tool(looks=True)
    async def alpha_to_mask(self, image_id: str) -> ToolResult:
        """Make a mask of what is not transparent in an image.

        Args:
            image_id: an image with transparent parts.
        """
        return await self._made_mask(_alpha(await self._load(image_id), image_id))

    @tool
    async def cut_out(self, image_id: str, mask_id: str) -> ToolResult:
        """Cut out what a mask covers. All other parts of the image become transparent.

        Args:
            image_id: the image to cut from.
            mask_id: a mask of the image, white where it stays.
        """
        image = await asyncio.to_thread(editable, self._images, image_id)
        mask = await self._mask(mask_id, image_id, image.size)
        cut, _ = await asyncio.to_thread(_cut, image, mask, [0, 0, *image.size], 1.0, mask_id)
        return await self._changed(image_id, cut, "cut out", {"mask": handle_of_id(self._images, mask_id)})

    @tool
    async def fill_background(self, image_id: str, colour: str) -> ToolResult:
        """Put an image with transparent parts on a background of one colour.

        Args:
            image_id: an image with transparent parts.
            colour: the background, such as "white" or "#ffcc00".
        """
        image = await asyncio.to_thread(editable, self._images, image_id)
        if _alpha(image, image_id).getextrema() == (255, 255):
            raise ToolError(_OPAQUE.format(image_id))
        red, green, blue = _colour(colour)
        below = Image.new("RGBA", image.size, (red, green, blue, 255))
        filled = await asyncio.to_thread(Image.alpha_composite, below, image)
        return await self._changed(image_id, filled.convert("RGB"), "", {"colour": [red, green, blue]})

    @tool
    async def edit_with_references(
        self,
        image_ids: Ids,
        prompt: str,
        negative_prompt: str | None = None,
        true_cfg_scale: Scale = None,
        num_inference_steps: Steps = None,
        seed: Seed = None,
    ) -> ToolResult:
        """Edit the first image as an instruction says. The other images show what the instruction refers to.

        Args:
            image_ids: the image to change, then the images for reference; usually up to 3 in all.
            prompt: the instruction. It calls the images by their order, such as "put the hat of image 2 on the dog".
            negative_prompt: what to avoid.
            true_cfg_scale: how closely to follow the instruction.
            num_inference_steps: more steps give better quality.
            seed: the same seed gives the same image.
        """
        check_prompt("prompt", prompt, "say what to change")
        first = await asyncio.to_thread(editable, self._images, image_ids[0])
        images = [first, *[await self._load(name) for name in image_ids[1:]]]
        params = EditParams(negative_prompt, true_cfg_scale, num_inference_steps, seed)
        edited = await edit_images(self._engines.editor, images, prompt, params)
        references = [handle_of_id(self._images, name) for name in image_ids[1:]]
        data = {**given_params(params), "references": references}
        return await self._changed(image_ids[0], edited, "", data, self._engines.editor.name)

    async def _load(self, image_id: str) -> Image.Image:
        return await asyncio.to_thread(self._images.store.get, handle_of_id(self._images, image_id))

    async def _mask(
        self, mask_id: str, image_id: str | None = None, size: tuple[int, int] | None = None
    ) -> Image.Image:
        """Return a mask in mode L; with an image and its size, one that fits it."""
        mask = await asyncio.to_thread(mask_of_id, self._images, mask_id)
        if image_id is not None and size is not None:
            check_mask_size(mask_id, mask.size, image_id, size)
        return mask

    async def _made_mask(self, mask: Image.Image) -> ToolResult:
        """Return the observation of a new mask: its name, its share of the image, and its box."""
        handle = await asyncio.to_thread(self._images.store.put, mask)
        box, share = await asyncio.to_thread(_extent, mask)
        name = self._images.add_handle(handle, "mask")
        words = "covers nothing" if box is None else f"covers {percent(share)}, box {list(box)}"
        data = {"share": round(share, 6), "box": None if box is None else list(box)}
        return ToolResult(f"{name}: {words}", (handle,), data=data)

    async def _changed(
        self, image_id: str, image: Image.Image, words: str, data: Mapping[str, object], engine: str = ""
    ) -> ToolResult:
        """Return the observation of a changed image; one that did not change is not shown again."""
        handle, source = await asyncio.to_thread(self._images.store.put, image), handle_of_id(self._images, image_id)
        name, data = self._images.add_handle(handle), {**data, "source": source}
        if handle == source:
            return ToolResult(f"{name}: nothing changed", (), engine, data=data)
        return ToolResult(f"{name}: {words}" if words else name, (handle,), engine, data=data)


def _cut(
    source: Image.Image, mask: Image.Image | None, box: Sequence[int] | None, opacity: float, name: str
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Return a part of an image in RGBA, and its box; without a box, that of the mask or of the whole image.

    Args:
        source: any image; its own alpha counts.
        mask: mode L, of its size, white = taken; None takes all.
        box: x0, y0, x1, y1 in pixels; may reach beyond the image.
        opacity: factor of the alpha.
        name: of the mask or the image, for messages.

    Raises:
        ToolError: nothing is left.
    """
    cut = source.convert("RGBA")
    if mask is not None:
        cut.putalpha(ImageChops.multiply(cut.getchannel("A"), mask))
    inside = box_inside(box, name, cut.size) if box is not None else cut.getchannel("A").getbbox()
    if inside is None or cut.getchannel("A").crop(inside).getbbox() is None:
        where = "" if box is None else f" in {list(box)}"
        raise ToolError(f"{name} leaves nothing{where} to take: use another mask or box")
    if opacity < 1.0:
        cut.putalpha(cut.getchannel("A").point(lambda value: round(value * opacity)))
    return cut.crop(inside), inside


def _reshaped(mask: Image.Image, invert: bool, grow: int, feather: int) -> Image.Image:
    if invert:
        mask = ImageChops.invert(mask)
    if grow < 0:
        # What lies beyond the edge of the image counts as covered: a mask that touches it stays there.
        mask = ImageChops.invert(make_mask([ImageChops.invert(mask)], -grow, 0))
    return make_mask([mask], max(0, grow), feather)


def _extent(mask: Image.Image) -> tuple[tuple[int, int, int, int] | None, float]:
    """Return the box of what is not black, None for a black mask; and the mean of the mask, from 0 to 1."""
    return mask.getbbox(), float(np.asarray(mask).mean() / 255)


def _figure(shape: str, box: Sequence[int], size: tuple[int, int]) -> Image.Image:
    """Return a mask of a box, or of the pixels whose centres lie in its ellipse."""
    x0, y0, x1, y1 = box
    if shape == "box":
        return box_mask((max(0, x0), max(0, y0), min(size[0], x1), min(size[1], y1)), size)
    across = (2 * np.arange(size[0]) + 1 - x0 - x1) / (x1 - x0)
    down = (2 * np.arange(size[1]) + 1 - y0 - y1) / (y1 - y0)
    inside = across[None, :] ** 2 + down[:, None] ** 2 <= 1.0
    return Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))


def _alpha(image: Image.Image, image_id: str) -> Image.Image:
    """Return the alpha channel of an image, or raise `ToolError` where it has none."""
    if "A" not in image.getbands():
        raise ToolError(_OPAQUE.format(image_id))
    return image.getchannel("A")


def _colour(text: str) -> tuple[int, int, int]:
    """Return the red, green and blue (0 to 255) of a colour by name or number, or raise `ToolError`."""
    fault = ToolError(f"{shortened(text)!r} is no colour: give a name, such as white, or #rrggbb")
    try:
        red, green, blue, *alpha = ImageColor.getrgb(text.strip())
    except ValueError:
        raise fault from None
    # Pillow reads numbers beyond the range, which would be cut or wrap, and transparent colours, which do not fill.
    if not all(0 <= value <= 255 for value in (red, green, blue)) or alpha not in ([], [255]):
        raise fault
    return red, green, blue
