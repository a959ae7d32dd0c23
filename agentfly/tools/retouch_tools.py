"""The retouch tools: tone, colour, one range of hues, detail, and geometry, all by parameters and without an engine.

Agents that were trained on such tools have one for each parameter and go step by step (arXiv:2606.08016 has 16), or
write all parameters of an editor in one list (Lightroom's, arXiv:2506.17612). These nine lie between: a tool for each
panel of an editor, whose parameters are optional. So a policy can move one parameter at a time, and one call can do
what belongs together without rounding in between. Every token of a schema is in every prompt: the ten parameters of
tone, colour and detail take about 590 tokens in three tools and 1150 in ten. Names and ranges are those of photo
editors, which models know.

The docstrings of the tools are their schemas, and policies are trained on them: do not change a word of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import Field, WithJsonSchema

from agentfly.errors import ConfigError, ToolError
from agentfly.images import ImageView
from agentfly.tools.decorator import ToolResult, tool
from agentfly.tools.image_ids import box_inside, editable, handle_of_id, mask_for
from agentfly.vision import retouching
from agentfly.vision.retouching import Pixels
from agentfly.vision.retouching.detail import MOST_GRAIN, MOST_SHARPNESS, MOST_SIGMA
from agentfly.vision.retouching.tone import MOST_PERCENT, MOST_STOPS

# Checked, and told to a model that goes beyond them, but not in the schema: the words have them.
_NUMBER, _WHOLE = WithJsonSchema({"type": "number"}), WithJsonSchema({"type": "integer"})
Stops = Annotated[float, Field(ge=-MOST_STOPS, le=MOST_STOPS), _NUMBER]
Percent = Annotated[float, Field(ge=-MOST_PERCENT, le=MOST_PERCENT), _NUMBER]
Hue = Annotated[float, Field(ge=0, le=360), _NUMBER]
Width = Annotated[float, Field(ge=1, le=180), _NUMBER]
Shift = Annotated[float, Field(ge=-180, le=180), _NUMBER]
Sigma = Annotated[float, Field(ge=0, le=MOST_SIGMA), _NUMBER]
Sharpness = Annotated[float, Field(ge=0, le=MOST_SHARPNESS), _NUMBER]
Grain = Annotated[float, Field(ge=0, le=MOST_GRAIN), _NUMBER]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), _WHOLE]
Degrees = Annotated[float, Field(ge=-360, le=360), _NUMBER]
# An image of a chain stays in memory, so a policy must not make it as large as it likes.
_MOST_SIDE = 4096
Side = Annotated[int, Field(ge=1, le=_MOST_SIDE), _WHOLE] | None
Box = Annotated[list[int], Field(min_length=4, max_length=4)]
Corners = Annotated[list[float], Field(min_length=8, max_length=8)]

_ENGINE = "retouch"
_Values = Mapping[str, object]


class RetouchTools:
    """Tools that change the images of one chain by parameters. All are deterministic.

    Args:
        images: the images that the chain can name; new ones are added to it.
    """

    def __init__(self, images: ImageView) -> None:
        self._images = images

    @tool
    def adjust_tone(
        self,
        image_id: str,
        exposure: Stops = 0,
        contrast: Percent = 0,
        highlights: Percent = 0,
        shadows: Percent = 0,
        mask_id: str | None = None,
    ) -> ToolResult:
        """Make an image brighter or darker, or change its contrast. Values are -100 to 100.

        Args:
            image_id: the image to change.
            exposure: stops, -5 to 5; 1 doubles the light.
            contrast: positive makes it stronger.
            highlights: negative darkens bright parts.
            shadows: positive brightens dark parts.
            mask_id: white where the image changes.
        """
        values = {"exposure": exposure, "contrast": contrast, "highlights": highlights, "shadows": shadows}
        return self._adjusted(image_id, mask_id, values, lambda pixels: retouching.adjust_tone(pixels, **values))

    @tool
    def adjust_colour(
        self,
        image_id: str,
        saturation: Percent = 0,
        temperature: Percent = 0,
        tint: Percent = 0,
        mask_id: str | None = None,
    ) -> ToolResult:
        """Change all colours of an image. Values are -100 to 100.

        Args:
            image_id: the image to change.
            saturation: -100 is grey.
            temperature: positive is warmer, negative is bluer.
            tint: positive is more magenta, negative is greener.
            mask_id: white where the image changes.
        """
        values = {"saturation": saturation, "temperature": temperature, "tint": tint}
        return self._adjusted(image_id, mask_id, values, lambda pixels: retouching.adjust_colour(pixels, **values))

    @tool
    def adjust_hue_range(
        self,
        image_id: str,
        hue: Hue,
        width: Width = 60,
        shift: Shift = 0,
        saturation: Percent = 0,
        luminance: Percent = 0,
        mask_id: str | None = None,
    ) -> ToolResult:
        """Change only colours near one hue: 0 red, 60 yellow, 120 green, 180 cyan, 240 blue, 300 magenta.

        Args:
            image_id: the image to change.
            hue: degrees, the middle of the range.
            width: degrees; half of the effect is left at half of it.
            shift: degrees to turn the hue by, -180 to 180.
            saturation: -100 to 100.
            luminance: -100 to 100.
            mask_id: white where the image changes.
        """
        values = {"width": width, "shift": shift, "saturation": saturation, "luminance": luminance}
        changes = {name: value for name, value in values.items() if name != "width"}
        return self._adjusted(
            image_id,
            mask_id,
            changes,
            lambda pixels: retouching.adjust_hue_range(pixels, hue, **values),
            {"hue": hue, "width": width},
        )

    @tool
    def adjust_detail(
        self,
        image_id: str,
        blur: Sigma = 0,
        sharpness: Sharpness = 0,
        grain: Grain = 0,
        seed: Seed = 0,
        mask_id: str | None = None,
    ) -> ToolResult:
        """Blur or sharpen an image, or add film grain.

        Args:
            image_id: the image to change.
            blur: sigma in pixels, 0 to 50.
            sharpness: percent, 0 to 300.
            grain: percent, 0 to 100.
            seed: of the grain.
            mask_id: white where the image changes.
        """

        def changed(pixels: Pixels) -> Pixels:
            softer = retouching.blur(pixels, blur)
            return retouching.add_grain(retouching.sharpen(softer, sharpness), grain, seed=seed)

        values = {"blur": blur, "sharpness": sharpness, "grain": grain}
        return self._adjusted(image_id, mask_id, values, changed, {"seed": seed} if grain else {})

    @tool
    def crop_image(self, image_id: str, box: Box) -> ToolResult:
        """Cut a part out of an image.

        Args:
            image_id: the image to change.
            box: the part to keep: x0, y0, x1, y1 in pixels.
        """
        image = editable(self._images, image_id)
        inside = box_inside(box, image_id, image.size)
        return self._moved(image_id, image, {"box": list(inside)}, lambda pixels: retouching.crop(pixels, *inside))

    @tool
    def rotate_image(self, image_id: str, degrees: Degrees, expand: bool = False) -> ToolResult:
        """Turn an image clockwise.

        Args:
            image_id: the image to change.
            degrees: negative turns it counter-clockwise.
            expand: keep the corners and fill up with transparency, instead of cutting to what is full.
        """
        values = {"degrees": degrees, "expand": expand}
        image = editable(self._images, image_id)
        return self._moved(image_id, image, values, lambda pixels: retouching.rotate(pixels, degrees, expand=expand))

    @tool
    def flip_image(self, image_id: str, direction: Literal["horizontal", "vertical"]) -> ToolResult:
        """Mirror an image.

        Args:
            image_id: the image to change.
            direction: horizontal exchanges left and right.
        """
        image = editable(self._images, image_id)
        values = {"direction": direction}
        return self._moved(image_id, image, values, lambda pixels: retouching.flip(pixels, direction))

    @tool
    def straighten_perspective(self, image_id: str, corners: Corners) -> ToolResult:
        """Make a slanted four-sided part of an image, such as a sign or a page, an upright image.

        Args:
            image_id: the image to change.
            corners: x, y of its top left, top right, bottom right and bottom left corner, in pixels.
        """
        places = list(zip(corners[0::2], corners[1::2], strict=True))
        image = editable(self._images, image_id)
        values = {"corners": corners}
        return self._moved(image_id, image, values, lambda pixels: retouching.straighten_perspective(pixels, places))

    @tool
    def resize_image(self, image_id: str, width: Side = None, height: Side = None) -> ToolResult:
        """Change the size of an image. With one side given, the other one keeps the shape.

        Args:
            image_id: the image to change.
            width: pixels, at most 4096.
            height: pixels, at most 4096.
        """
        image = editable(self._images, image_id)
        if width is None and height is None:
            raise ToolError(f"give width, height or both; {image_id} is {image.width}x{image.height}")
        wide = width or max(1, round(image.width * (height or 1) / image.height))
        high = height or max(1, round(image.height * wide / image.width))
        if max(wide, high) > _MOST_SIDE:
            raise ToolError(
                f"{image_id} would be {wide}x{high}, and a side has at most {_MOST_SIDE}: give a smaller one"
            )
        values = {"width": wide, "height": high}
        return self._moved(image_id, image, values, lambda pixels: retouching.resize(pixels, wide, high))

    def _adjusted(
        self,
        image_id: str,
        mask_id: str | None,
        changes: Mapping[str, float],
        change: Callable[[Pixels], Pixels],
        others: _Values | None = None,
    ) -> ToolResult:
        """Return the observation of an image that was changed in place, where a mask is white.

        Args:
            image_id: as the model gave it.
            mask_id: as the model gave it; None changes the whole image.
            changes: the parameters that change nothing if all of them are zero.
            change: makes the new pixels.
            others: the other parameters, for the record.
        """
        image = editable(self._images, image_id)
        if not any(changes.values()):
            names = list(changes)
            raise ToolError(f"nothing would change in {image_id}: set {', '.join(names[:-1])} or {names[-1]}")
        mask = None if mask_id is None else mask_for(self._images, mask_id, image_id, image.size)
        before = _pixels(image)
        after = change(before)
        if mask is not None:
            after = retouching.blend(before, after, np.asarray(mask))
        data = {
            **(others or {}),
            **changes,
            **({} if mask_id is None else {"mask": handle_of_id(self._images, mask_id)}),
        }
        return self._result(image_id, _image(after, image.mode), data)

    def _moved(
        self, image_id: str, image: Image.Image, values: _Values, change: Callable[[Pixels], Pixels]
    ) -> ToolResult:
        """Return the observation of an image whose pixels were moved: its name and its size."""
        try:
            made = _image(change(_pixels(image)), image.mode)
        except ConfigError as fault:
            raise ToolError(f"{image_id}: {fault}") from fault
        return self._result(image_id, made, values, f": {made.width}x{made.height}")

    def _result(self, image_id: str, made: Image.Image, values: _Values, words: str = "") -> ToolResult:
        source = handle_of_id(self._images, image_id)
        handle = self._images.store.put(made)
        if handle == source:
            raise ToolError(f"nothing would change in {image_id}: all its pixels stay the same with these values")
        name = self._images.add_handle(handle)
        return ToolResult(f"{name}{words}", (handle,), _ENGINE, data={**values, "source": source})


def _pixels(image: Image.Image) -> Pixels:
    """Return the pixels of an image of mode L, RGB or RGBA; grey ones three times."""
    return np.asarray(image.convert("RGB") if image.mode == "L" else image)


def _image(pixels: Pixels, mode: str) -> Image.Image:
    """Return pixels as an image; one that was grey (mode L) and still is stays grey."""
    if mode == "L" and pixels.shape[2] == 3 and (pixels[..., :1] == pixels).all():
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    return Image.fromarray(pixels)
