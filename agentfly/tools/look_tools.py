"""Tools that look: zoom, side by side, difference, colours, histogram, masks, changes, regions. None edits an image.

Observations are short and regular. They name the image, the box in its pixels, and the figures; a view is shown only
where words do not say it. Boxes are `[x0, y0, x1, y1]` in pixels, x1 and y1 exclusive, and are cut to the image.

A zoomed view remembers its place: a box or a point in its pixels is looked up in the image that it shows, so that the
figures are those of that image and the words keep its coordinates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from agentfly.errors import ConfigError, ImageError, ToolError
from agentfly.images import ImageView, read_mask
from agentfly.tools.decorator import ToolResult, percent, tool
from agentfly.tools.image_ids import handle_of_id
from agentfly.vision import looking
from agentfly.vision.looking import Box

BoxArgument = Annotated[list[int], Field(min_length=4, max_length=4)]
ColourName = Literal[
    "black", "white", "grey", "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "beige"
]
_MOST_LISTED, _MOST_CHANGES = 8, 3
_ENGINE, _SOURCE = "classical", "img_1"


@dataclass(frozen=True)
class _Place:
    """A part of an image that a call looks at: the name of the image, the image, and the box in its pixels."""

    name: str
    image: Image.Image
    box: Box

    @property
    def part(self) -> Image.Image:
        """The pixels of the box."""
        return self.image if self.is_whole else self.image.crop(self.box)

    @property
    def is_whole(self) -> bool:
        """True if the box is the whole image."""
        return self.box == (0, 0, *self.image.size)

    def __str__(self) -> str:
        return self.name if self.is_whole else f"{self.name} {list(self.box)}"


class LookTools:
    """Tools that look at the images of one chain.

    Args:
        images: the images that the chain can name; views are added to it.
        max_pixels: of the largest view, at least 4096. A view has no more than the images that it shows.

    Raises:
        ConfigError: `max_pixels` is too small.
    """

    def __init__(self, images: ImageView, *, max_pixels: int = 512 * 512) -> None:
        if max_pixels < looking.LEAST_PIXELS:
            raise ConfigError(f"max_pixels of a view must be at least {looking.LEAST_PIXELS}, got {max_pixels}")
        self._images = images
        self._max_pixels = max_pixels
        # The places that a view shows, by its handle. Equal pixels of two places are one view.
        self._places: dict[str, set[tuple[str, Box]]] = {}

    @tool(looks=True)
    def zoom(self, image_id: str, box: BoxArgument, exact_pixels: bool = False) -> ToolResult:
        """Enlarge a part of an image. Gives a view; in a view, boxes and points are given in its own pixels.

        Args:
            image_id: the image to look at.
            box: x0, y0, x1, y1 in its pixels.
            exact_pixels: show each pixel as a square, to judge edges.
        """
        place = self._place(image_id, box)
        budget = looking.view_budget([place.image], self._max_pixels)
        view, times = looking.zoomed(place.image, place.box, budget, exact=exact_pixels)
        name, handle = self._add(view)
        self._places.setdefault(handle, set()).add((self._images.handle(place.name), place.box))
        width, height = place.image.size
        text = f"{name}: {place.name} {list(place.box)} of {width}x{height} at {times:.3g}x"
        return _result(text, {"image": place.name, "box": place.box, "times": times}, handle)

    @tool(looks=True)
    def side_by_side(
        self, image_ids: Annotated[list[str], Field(min_length=2, max_length=4)], box: BoxArgument | None = None
    ) -> ToolResult:
        """Show images in a row, left to right.

        Args:
            image_ids: the images.
            box: x0, y0, x1, y1 in pixels, to show this part of each.
        """
        places = [self._place(image_id, box) for image_id in image_ids]
        budget = looking.view_budget([place.image for place in places], self._max_pixels)
        view, times = looking.side_by_side([place.part for place in places], budget)
        name, handle = self._add(view)
        text = f"{name}: {' | '.join(map(str, places))} at {times:.3g}x"
        shown = [{"image": place.name, "box": place.box} for place in places]
        return _result(text, {"shown": shown, "times": times}, handle)

    @tool(looks=True)
    def difference(self, image_id: str, other_id: str) -> ToolResult:
        """Show where two images differ: red where they do, and in figures.

        Args:
            image_id: the image to look at.
            other_id: the image to compare it with.
        """
        place, other = _aligned(self._place(image_id), self._place(other_id))
        image, change = _compared(place, other)
        words, data = _change_words(place, other, change)
        if not data["largest"]:
            return _result(words, data)
        shown = looking.difference_view(image, change)
        budget = looking.view_budget([shown], self._max_pixels)
        name, handle = self._add(looking.zoomed(shown, (0, 0, *shown.size), budget)[0])
        return _result(f"{name}: {words}", data, handle)

    @tool(looks=True)
    def compare_with_source(self, image_id: str, mask_id: str | None = None) -> ToolResult:
        """Tell how an image differs from the source, img_1: how much, where, inside and outside of a mask.

        Args:
            image_id: the edited image.
            mask_id: the mask of what should have changed.
        """
        place, source = _aligned(self._place(image_id), self._place(_SOURCE))
        change = _compared(place, source)[1]
        text, data = _change_words(place, source, change)
        if mask_id is not None:
            mask_name, mask = self._mask(mask_id)
            if mask.size != source.image.size:
                sizes = f"{mask.width}x{mask.height}", f"{source.image.width}x{source.image.height}"
                raise ToolError(f"{mask_name} is {sizes[0]} but {_SOURCE} is {sizes[1]}: give a mask of {_SOURCE}")
            inside = np.asarray(mask.crop(source.box)) > 127
            for side, where in (("inside", inside), ("outside", ~inside)):
                found = looking.measure_change(change, where)
                data[side] = asdict(found)
                text += f"; {side} {mask_name} "
                text += f"{percent(found.share)} changed, mean {found.mean:.1f}" if where.any() else "is no pixel"
        return _result(text, data)

    @tool(looks=True)
    def colour_at(self, image_id: str, x: int, y: int) -> ToolResult:
        """Tell the colour of a point: name, RGB, hex and CIE Lab.

        Args:
            image_id: the image to look at.
            x: column of the pixel.
            y: row of the pixel.
        """
        place = self._place(image_id, [x, y, x + 1, y + 1], f"({x}, {y})")
        # A pixel of a view shows a part of a pixel, or several: the one in the middle is meant.
        x, y = (place.box[0] + place.box[2] - 1) // 2, (place.box[1] + place.box[3] - 1) // 2
        found = looking.colour_of(place.image, x, y)
        red, green, blue = found.rgb
        lab = " ".join(str(round(value)) for value in found.lab)
        text = f"{place.name} ({x}, {y}): {found.name}, RGB {red} {green} {blue}, {found.hex}, Lab {lab}"
        text += "" if found.alpha == 255 else f", alpha {found.alpha}"
        return _result(text, {"image": place.name, "x": x, "y": y, **asdict(found)})

    @tool(looks=True)
    def dominant_colours(
        self, image_id: str, box: BoxArgument | None = None, count: Annotated[int, Field(ge=1, le=8)] = 4
    ) -> ToolResult:
        """Tell the most frequent colours and their shares.

        Args:
            image_id: the image to look at.
            box: x0, y0, x1, y1 in its pixels; the whole image by default.
            count: how many colours.
        """
        place = self._place(image_id, box)
        found = looking.dominant_colours(place.part)
        if not found:
            raise ToolError(f"{place} is transparent: it has no colours; choose another box or image")
        shares = [f"{group.name} {group.hex} {percent(group.share)}" for group in found[:count]]
        rest = 1 - sum(group.share for group in found[:count])
        if rest > 0.0005:
            shares.append(f"others {percent(rest)}")
        data = {"image": place.name, "box": place.box, "colours": [asdict(group) for group in found]}
        return _result(f"{place}: {', '.join(shares)}", data)

    @tool(looks=True)
    def histogram(self, image_id: str, box: BoxArgument | None = None, draw: bool = False) -> ToolResult:
        """Tell the tones of an image, 0 to 255: brightness and its spread, means of the channels, saturation, clipping.

        Args:
            image_id: the image to look at.
            box: x0, y0, x1, y1 in its pixels; the whole image by default.
            draw: also show the histogram.
        """
        place = self._place(image_id, box)
        tones = looking.measure_tones(place.part)
        if tones is None:
            raise ToolError(f"{place} is transparent: it has no tones; choose another box or image")
        low, middle, high = tones.percentiles
        red, green, blue = tones.rgb
        text = (
            f"{place}: brightness mean {tones.mean:.0f}, 5% below {low}, half below {middle}, 95% below {high}; "
            f"red {red:.0f} green {green:.0f} blue {blue:.0f}; saturation {percent(tones.saturation)}; "
            f"black {percent(tones.black)}, white {percent(tones.white)}"
        )
        data: dict[str, object] = {"image": place.name, "box": place.box, **asdict(tones)}
        del data["counts"]
        if not draw:
            return _result(text, data)
        name, handle = self._add(looking.histogram_view(tones))
        return _result(f"{name}: histogram of {text}", data, handle)

    @tool(looks=True)
    def measure_mask(self, mask_id: str) -> ToolResult:
        """Tell the size and place of a mask: area, share, box, centre, number of parts.

        Args:
            mask_id: the mask.
        """
        name, mask = self._mask(mask_id)
        found = looking.measure_mask(mask)
        data = asdict(found)
        size = f"{mask.width}x{mask.height}"
        if found.box is None or found.centroid is None:
            faint = f"; its brightest value is {found.peak} of 255" if found.peak else ""
            return _result(f"{name}: empty, {size}{faint}", data)
        x, y = (math.floor(value + 0.5) for value in found.centroid)
        parts = "1 part" if found.parts == 1 else f"{found.parts} parts"
        text = f"{name}: {found.area} pixels, {percent(found.share)} of {size}, {list(found.box)}, centre ({x}, {y})"
        return _result(f"{text}, {parts}", data)

    @tool(looks=True)
    def count_regions(
        self,
        image_id: str,
        colour: ColourName,
        box: BoxArgument | None = None,
        min_area: Annotated[int, Field(ge=1)] = 9,
    ) -> ToolResult:
        """Count the connected regions of a colour. Gives their boxes and areas, the largest first.

        Args:
            image_id: the image to look at.
            colour: the name that colour_at gives.
            box: x0, y0, x1, y1 in its pixels; the whole image by default.
            min_area: smallest area in pixels.
        """
        place = self._place(image_id, box)
        inside = looking.colour_names(place.part) == looking.NAMES.index(colour)
        regions, left_out = looking.regions_of(inside & looking.visible(place.part), min_area)
        left, top = place.box[:2]
        moved = [region.moved(left, top) for region in regions]
        text = f"{place}: {len(moved) or 'no'} {colour} region{'' if len(moved) == 1 else 's'}"
        listed = [f"{list(region.box)} {region.area}" for region in moved[:_MOST_LISTED]]
        listed += [f"{len(moved) - _MOST_LISTED} more"] if len(moved) > _MOST_LISTED else []
        text += f": {', '.join(listed)}" if listed else ""
        text += f"; {left_out} thin or small left out" if left_out else ""
        data = {"image": place.name, "box": place.box, "regions": [asdict(region) for region in moved]}
        return _result(text, {**data, "left_out": left_out})

    def _add(self, view: Image.Image) -> tuple[str, str]:
        """Keep a view; return its name and its handle."""
        name = self._images.add(view, "view")
        return name, self._images.handle(name)

    def _place(self, image_id: str, box: Sequence[int] | None = None, words: str = "") -> _Place:
        """Return the place that a call means: in the image that a zoomed view shows, where it names one.

        Args:
            image_id: as the model gave it.
            box: x0, y0, x1, y1 in pixels of that image or view, cut to it; None is all of it.
            words: the box in words, for the message; by default its numbers.

        Raises:
            ToolError: no such image, nothing of the box is inside, or the view shows several places.
        """
        handle = handle_of_id(self._images, image_id)
        name = image_id if image_id in self._images and image_id != handle else self._images.name(handle)
        image = self._images.store.get(handle)
        width, height = image.size
        x0, y0, x1, y1 = box or (0, 0, width, height)
        inside = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            ask = f"0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
            ask = f"0 <= x < {width} and 0 <= y < {height}" if words else ask
            raise ToolError(f"{words or list(box or ())} is not inside {name}, which is {width}x{height}: give {ask}")
        # A copy: another call of the same turn may add to it.
        shown = tuple(self._places.get(handle, ())) if name.startswith("view_") else ()
        if not shown:
            return _Place(name, image, inside)
        if len(shown) > 1:
            listed = " and ".join(sorted(f"{self._images.name(source)} {list(part)}" for source, part in shown))
            raise ToolError(f"{name} shows {listed}, which look the same: name the image itself and a box in it")
        source, (left, top, right, bottom) = shown[0]
        across, down = right - left, bottom - top
        # In whole numbers: a quotient that is rounded up would reach beyond the place.
        mapped = (
            left + inside[0] * across // width,
            top + inside[1] * down // height,
            right - (width - inside[2]) * across // width,
            bottom - (height - inside[3]) * down // height,
        )
        return _Place(self._images.name(source), self._images.store.get(source), mapped)

    def _mask(self, mask_id: str) -> tuple[str, Image.Image]:
        """Return the name of a mask, and the mask in mode L; of a zoomed view, the mask that it shows."""
        place = self._place(mask_id)
        if place.name.startswith("mask_"):
            return place.name, place.image.convert("L")
        try:
            return place.name, read_mask(place.image).image
        except ImageError as fault:
            raise ToolError(f"{place.name} is not a mask: give the id of a mask, such as mask_1") from fault


def _result(text: str, data: Mapping[str, object], *handles: str) -> ToolResult:
    """Return a result whose data are read back equal from a trajectory line, with lists in place of tuples."""
    return ToolResult(text, handles, _ENGINE, data=json.loads(json.dumps(data)))


def _aligned(place: _Place, other: _Place) -> tuple[_Place, _Place]:
    """Return two places to compare; a part of an image is compared with the same part of one of the same size."""
    if place.image.size == other.image.size and place.is_whole != other.is_whole:
        box = other.box if place.is_whole else place.box
        return replace(place, box=box), replace(other, box=box)
    return place, other


def _compared(place: _Place, other: _Place) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Return an image at the size of another one, and the change of each pixel from the other one to it."""
    image = looking.scaled_to(place.part, other.part.size, str(place), str(other))
    return image, looking.change_map(other.part, image)


def _change_words(place: _Place, other: _Place, change: NDArray[np.uint8]) -> tuple[str, dict[str, object]]:
    """Return a change in words and in figures, with boxes in the pixels of the other image."""
    found = looking.measure_change(change)
    regions = [region.moved(*other.box[:2]) for region in looking.changed_regions(change)]
    data: dict[str, object] = {**asdict(found), "regions": [asdict(region) for region in regions]}
    text = f"{place} against {other}: "
    if place.part.size != other.part.size:
        text = f"{place}, scaled from {place.part.width}x{place.part.height}, against {other}: "
    if not found.largest:
        return f"{text}nothing changed", data
    boxes = [str(list(region.box)) for region in regions[:_MOST_CHANGES]]
    boxes += [f"{len(regions) - _MOST_CHANGES} more"] if len(regions) > _MOST_CHANGES else []
    where = f" at {', '.join(boxes)}" if boxes else ""
    text += f"{percent(found.share)} changed{where}; change mean {found.mean:.1f}, largest {found.largest}"
    return text, data
