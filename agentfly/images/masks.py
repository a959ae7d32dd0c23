"""Read masks in the forms in which people and programs keep them.

A mask of ours has mode L: white (255) where the image must change, black where it stays, grey for a part of the change.
`read_mask` takes each form for what it most plainly is, by these rules in their order:

1. Transparent pixels mark what changes, as in OpenAI's images API. But where all that can be seen has one colour, not
   black, and the edge of the image is mostly transparent, a shape was drawn on an empty layer: the shape changes (if
   about half of the edge is transparent, nobody can tell, and the mask is refused). An
   image that is nowhere more than half transparent counts as opaque.
2. In colours (a palette such as Pascal VOC's), every colour but black changes.
3. In grey, a few small numbers (0 and 1, class numbers) are labels: every number but 0 changes. VOC's 255 may be among
   numbers up to 31, and numbers of two or more classes may go up to 254.
4. Any other grey is a mask of ours.

An image that no rule fits, such as a photograph, is refused: it would cost an edit, or a training step, to find out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from agentfly.errors import ImageError
from agentfly.images.load import DEFAULT_LIMITS, ImageLimits, ImageSource, load_image
from agentfly.images.pixels import normalise

_REMEDY = "give a PNG that is white where the image must change, and black elsewhere"
# Difference of the channels of a pixel up to which it is grey, and of colours that count as one: JPEG is not exact.
_SAME = 16
_MOST_LABELS, _HIGHEST_LABEL, _HIGHEST_BESIDE_VOID = 32, 127, 31
_MOST_COLOURS, _SURELY_FLAT = 256, 16
# Most pixels of a photograph are neither dark nor bright. Among them, at a side of some 200 pixels, the brightness goes
# up and down again within three pixels, which it seldom does in gradients and soft edges; or all pixels are so.
_DARK, _BRIGHT, _MOSTLY_GREY, _ALL_GREY = 24, 231, 0.5, 0.98
_JUDGED_SIDE, _SMALLEST_JUDGED, _STEP, _TURNS = 192, 48, 3, 0.03
# A drawing or a photograph of few colours: most pixels differ from the next one.
_EQUAL_NEIGHBOURS = 0.6
_BETWEEN = [0, *[255] * 254, 0]
# Modes in which a PNG file can declare one colour as transparent.
_ONE_COLOUR_CLEAR = ("1", "L", "I", "I;16", "RGB")
# Shares of the edge that are visible, between which a shape of one colour may be a hole as well.
_EITHER_WAY = (0.25, 0.75)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Mask:
    """A mask, and the form that it was in.

    Attributes:
        image: mode L, white = change.
        form: the rule that was followed, in words.
    """

    image: Image.Image
    form: str


def load_mask(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Return a mask as mode L, white = change.

    Args:
        source: as for `load_image`.
        limits: see `load_image`.

    Raises:
        ImageError: the source cannot be loaded, or is no mask.
    """
    return read_mask(load_image(source, limits, keep_levels)).image


def read_mask(image: Image.Image) -> Mask:
    """Return what a loaded image says as a mask; see the rules of this module.

    Raises:
        ImageError: it cannot be a mask.
    """
    image = keep_levels(image)
    if image.mode == "RGBA":
        if _extremes(image.getchannel("A"))[0] < 128:
            return _of_alpha(image)
        image = image.convert("RGB")
    if image.mode == "RGB":
        red, green, blue = image.split()
        pairs = ((red, green), (green, blue), (blue, red))
        if max(_extremes(ImageChops.difference(*pair))[1] for pair in pairs) > _SAME:
            return _of_colours(image)
        image = image.convert("L")
    return _of_grey(image)


def keep_levels(image: Image.Image) -> Image.Image:
    """Return an image in a mode of the store, as `normalise` does, but with the numbers of a 16-bit mask of labels.

    Programs that shrink PNG files declare the black of a black and white mask as transparent. That is no hole.
    """
    if image.mode in _ONE_COLOUR_CLEAR and image.info.get("transparency") in (0, (0, 0, 0)):
        image = image.copy()
        del image.info["transparency"]
    if image.mode.startswith("I"):
        values = np.asarray(image.convert("I"))
        if values.min(initial=0) >= 0 and values.max(initial=0) <= 255:
            return Image.fromarray(values.astype(np.uint8))
    return normalise(image)


def _of_alpha(image: Image.Image) -> Mask:
    alpha = image.getchannel("A")
    top = _extremes(alpha)[1]
    visible = alpha.point(lambda value: 255 if 2 * value >= max(1, top) else 0)
    spans = [_span(band, visible) for band in image.split()[:3]] if top else []
    one_colour = all(high - low <= _SAME for low, high in spans) and any(high > 2 * _SAME for _, high in spans)
    shown = np.asarray(visible)
    edge = np.concatenate((shown[0], shown[-1], shown[:, 0], shown[:, -1])).mean() / 255
    if one_colour and _EITHER_WAY[0] < edge < _EITHER_WAY[1]:
        raise ImageError(f"this mask is one colour, and transparent to the edge: which part changes? {_REMEDY}")
    if one_colour and edge < 0.5:
        grey, form = (
            alpha.point(lambda value: round(value * 255 / top)),
            "a shape on a transparent ground: the shape changes",
        )
    else:
        grey, form = ImageChops.invert(alpha), "transparent marks what changes, as in OpenAI's API"
    return Mask(_of_grey(grey).image, form)


def _extremes(band: Image.Image) -> tuple[int, int]:
    """Return the lowest and the highest value of a band of 8 bits."""
    return cast("tuple[int, int]", band.getextrema())


def _span(band: Image.Image, visible: Image.Image) -> tuple[int, int]:
    """Return the lowest and the highest value of a band where an image is visible."""
    values = np.flatnonzero(band.histogram(visible))
    return int(values[0]), int(values[-1])


def _of_colours(image: Image.Image) -> Mask:
    counted = image.getcolors(_MOST_COLOURS)
    if counted is None or (len(counted) > _SURELY_FLAT and _equal_neighbours(np.asarray(image)) < _EQUAL_NEIGHBOURS):
        raise ImageError(f"this is a colour image, not a mask: {_REMEDY}")
    if not any(colour == (0, 0, 0) for _, colour in counted):
        raise ImageError(f"this mask has colours and no black, so nothing says what stays: {_REMEDY}")
    brightest = reduce(ImageChops.lighter, image.split())
    return Mask(brightest.point(lambda value: 255 if value else 0), "every colour but black changes")


def _equal_neighbours(pixels: Pixels) -> float:
    """Return the share of the pixels that have the colour of the next one in their row."""
    if pixels.shape[1] < 2:
        return 1.0
    return float((pixels[:, 1:] == pixels[:, :-1]).all(axis=2).mean())


def _of_grey(grey: Image.Image) -> Mask:
    # Nearly all masks hold 0 and 255 alone. Counting all values would take several times as long.
    if grey.point(_BETWEEN).getbbox() is None:
        return Mask(grey, "black: nothing changes" if grey.getbbox() is None else "white marks what changes")
    counts = np.array(grey.histogram())
    values = np.flatnonzero(counts)
    if _are_labels(values):
        if len(values) > 1 and values[0] != 0:
            raise ImageError(
                f"this mask has the values {_listed(values)} and no 0, so nothing says what stays: {_REMEDY}"
            )
        form = "1 marks what changes, 0 what stays" if values[-1] == 1 else "numbers: every one but 0 changes"
        return Mask(grey.point(lambda value: 255 if value else 0), form)
    if _is_photograph(grey, counts[_DARK : _BRIGHT + 1].sum() / counts.sum(), len(values)):
        raise ImageError(f"this is a grey image, not a mask: {_REMEDY}")
    return Mask(grey, "white marks what changes, grey a part of it")


def _are_labels(values: NDArray[np.intp]) -> bool:
    """Return True if the values of a mask (ascending) are a few small numbers."""
    if len(values) > _MOST_LABELS:
        return False
    if values[-1] <= _HIGHEST_LABEL or (len(values) > 2 and values[-1] < 255):
        return True
    return bool(len(values) > 2 and values[-1] == 255 and values[-2] <= _HIGHEST_BESIDE_VOID)


def _is_photograph(grey: Image.Image, share: float, levels: int) -> bool:
    """Return True if an image in grey is surely no mask.

    Args:
        grey: mode L.
        share: of its pixels that are neither dark nor bright.
        levels: number of its different values.
    """
    if share <= _MOSTLY_GREY or levels <= _MOST_LABELS or min(grey.size) < _SMALLEST_JUDGED:
        return False
    if share > _ALL_GREY:
        return True
    scale = min(1.0, _JUDGED_SIDE / max(grey.size))
    small = grey.resize((max(3, round(grey.width * scale)), max(1, round(grey.height * scale))), Image.Resampling.BOX)
    pixels = np.asarray(small).astype(np.int16)
    middle, steps = pixels[:, 1:-1], np.diff(pixels, axis=1)
    before, after = steps[:, :-1], steps[:, 1:]
    turns = (np.sign(before) == -np.sign(after)) & (np.minimum(np.abs(before), np.abs(after)) >= _STEP)
    counted = turns[(middle >= _DARK) & (middle <= _BRIGHT)]
    return bool(counted.size) and float(counted.mean()) > _TURNS


def _listed(values: NDArray[np.intp]) -> str:
    shown = ", ".join(map(str, values[:4].tolist()))
    return shown if len(values) <= 4 else f"{shown}, ..."
