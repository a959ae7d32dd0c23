"""Inpainting and editing without weights.

The inpainter removes what a mask covers, or draws the figure that a prompt names into it. The editor reads a small
grammar. A colour word means every pixel of that colour in the image: an editor of whole images has no mask, so it
recolours the photograph along with the sticker and leaves the sticker's border behind. The local tools do better; this
one is quick.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.images import on_white
from agentfly.vision.base import EditParams, InpaintParams
from agentfly.vision.classical.detector import Pixels, colour_mask, find_regions, shape_matches
from agentfly.vision.classical.words import KNOWN, Phrase, read_phrase
from agentfly.vision.shapes import COLOURS, SHAPES, WHITE, Figure, border_width, largest_inside

_REMOVAL_WORDS = frozenset(("background", "remove", "removed", "nothing", "empty", "erase", "photo", "photograph"))
_TELEA_RADIUS = 4.0
_KEEP_SHAPE = 0.5


class ClassicalInpainter:
    """Removes by Telea's fast marching method (Telea, 2004), draws the six colours and four shapes.

    An empty prompt, or one such as "background", removes. A prompt with a colour or a shape cleans the masked
    region and draws the named figure with its white border, as large as fits in the region. Without a shape word
    the region keeps its shape; without a colour word it keeps its colour. Of the settings only `strength` has an
    effect here.
    """

    name = "classical"

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        """Return the image with the masked part repainted; see `Inpainter`. Grey mask values and `strength` blend.

        Raises:
            EngineUnavailable: the prompt asks for anything but a removal or a known figure.
            ToolError: mask and image differ in size, or `strength` is not in (0, 1].
        """
        strength = 1.0 if params.strength is None else params.strength
        if not 0.0 < strength <= 1.0:
            raise ToolError(f"strength must be above 0 and at most 1, got {strength}")
        if mask.size != image.size:
            raise ToolError(f"the mask is {mask.width}x{mask.height} but the picture {image.width}x{image.height}")
        words = [word for word in prompt.lower().split() if word.strip(".,") not in _REMOVAL_WORDS]
        phrase = read_phrase(" ".join(words))
        if phrase.unknown or len(phrase.colours) > 1 or len(phrase.shapes) > 1:
            raise EngineUnavailable(
                f"needs a model backend: {prompt!r}. The classical inpainter removes (empty prompt) or draws one figure"
                f" of {KNOWN}."
            )
        return await asyncio.to_thread(_inpaint, image, mask, phrase, strength)


def _inpaint(image: Image.Image, mask: Image.Image, phrase: Phrase, strength: float) -> Image.Image:
    pixels, weights = np.array(image.convert("RGB")), np.asarray(mask.convert("L"))
    painted = repaint(np.array(on_white(image)), weights, phrase)
    alpha = weights.astype(np.float32)[..., None] * (strength / 255.0)
    blended = np.round(pixels + alpha * (painted.astype(np.float32) - pixels)).astype(np.uint8)
    result = Image.fromarray(blended)
    if image.mode == "RGBA":
        result.putalpha(image.getchannel("A"))
    return result


def repaint(pixels: Pixels, weights: Pixels, phrase: Phrase) -> Pixels:
    """Return pixels repainted where the weights are above 0.

    Args:
        pixels: RGB (H, W, 3).
        weights: mask (H, W), 0 to 255.
        phrase: the figure to draw; without words what is there is removed.

    Raises:
        ToolError: no part of the mask is large enough for the figure.
    """
    covered = np.where(weights > 0, 255, 0).astype(np.uint8)
    if not covered.any():
        return pixels.copy()
    painted = np.asarray(cv2.inpaint(pixels, covered, _TELEA_RADIUS, cv2.INPAINT_TELEA), dtype=np.uint8)
    if phrase.words:
        # A feathered edge counts as covered from its middle.
        solid = np.where(weights > 127, 255, 0).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(solid)
        drawn = False
        for label in range(1, count):
            x, y, width, height = (int(value) for value in stats[label, :4])
            part = labels[y : y + height, x : x + width] == label
            drawn |= _draw(painted, pixels, part, (x, y), phrase)
        if not drawn:
            raise ToolError("the mask is too small to draw in: use a larger auto_mask_dilate")
    return painted


def _draw(painted: Pixels, pixels: Pixels, part: NDArray[np.bool_], corner: tuple[int, int], phrase: Phrase) -> bool:
    """Draw the figure of a phrase into one connected part of the mask; return False where the part is too small."""
    x, y = corner
    height, width = part.shape
    covered = pixels[y : y + height, x : x + width][part]
    hsv = np.asarray(cv2.cvtColor(covered[None], cv2.COLOR_RGB2HSV), dtype=np.uint8)
    colours = phrase.colours or (max(COLOURS, key=lambda colour: int(colour_mask(hsv, colour).sum())),)
    border = border_width(pixels.shape[1], pixels.shape[0])
    padded = cv2.copyMakeBorder(part.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    # The transform measures to the middle of the nearest pixel outside, half a pixel beyond the edge.
    depth = np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)) - 0.5
    shapes = phrase.shapes
    if not shapes:
        matches = shape_matches(part)
        shapes = (max(SHAPES, key=matches.__getitem__),)
        if matches[shapes[0]] < _KEEP_SHAPE:
            # The region is like no shape that can be drawn, so it is filled as it is.
            window = painted[y : y + height, x : x + width]
            window[part] = WHITE
            window[depth[1:-1, 1:-1] >= border] = COLOURS[colours[0]]
            return True
    moments = cv2.moments(padded, binaryImage=True)
    centre = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    radius = largest_inside(depth, shapes[0], *centre, border)
    if radius <= 0.0:
        return False
    Figure(shapes[0], colours[0], x + centre[0] - 1, y + centre[1] - 1, radius, border).draw(painted)
    return True


CAN_DO = f"remove X; replace X by Y; make X COLOUR; brighten; darken; blur; grayscale; where X and Y are of the {KNOWN}"

_POLITE = re.compile(r"^(please|can you|could you)\s+|\s+please$")
_WHOLE = r"(?:it|(?:the|this) (?:whole )?(?:picture|image|photo))"
_REMOVE = re.compile(r"(?:remove|erase|delete) (?P<what>.+)")
_REPLACE = re.compile(r"(?:replace|swap|exchange|change|turn) (?P<what>.+?) (?:by|with|for|into|to) (?P<new>.+)")
_RECOLOUR = re.compile(rf"(?:make|paint|turn|color|colour) (?P<what>.+) (?P<new>{'|'.join(COLOURS)})")
_FIGURE_FIT = 0.5


class ClassicalEditor:
    """Edits by instruction: `CAN_DO` lists what it understands. Clauses may be joined by "and" or "then"."""

    name = "classical"

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        """Return the edited image, same size; see `Editor`. The settings of diffusion models have no effect here.

        Raises:
            EngineUnavailable: the instruction is outside the grammar.
            ToolError: what it names is not in the image.
        """
        text = instruction.lower().replace("black and white", "grayscale")
        parts = re.split(r"[.,;!?]|\band\b|\bthen\b", text)
        clauses = (_POLITE.sub("", " ".join(part.split())) for part in parts)
        actions = [_read_clause(clause, instruction) for clause in clauses if clause]
        if not actions:
            raise EngineUnavailable(f"the instruction is empty. The classical editor can: {CAN_DO}.")
        return await asyncio.to_thread(_apply, image, actions)


Action = Callable[[Pixels], Pixels]


def _apply(image: Image.Image, actions: list[Action]) -> Image.Image:
    pixels = np.array(image.convert("RGB"))
    if image.mode == "RGBA":
        # The alpha channel stays, so colours that show partly must stay as well; hidden ones are nowhere to be found.
        pixels[np.asarray(image.getchannel("A")) == 0] = 255
    for action in actions:
        pixels = action(pixels)
    result = Image.fromarray(pixels)
    if image.mode == "RGBA":
        result.putalpha(image.getchannel("A"))
    return result


def _read_clause(clause: str, instruction: str) -> Action:
    patterns: Sequence[tuple[re.Pattern[str], Callable[..., Pixels]]] = (
        (_RECOLOUR, _recolour),
        (_REPLACE, _replace),
        (_REMOVE, lambda pixels, what: repaint(pixels, _select(pixels, what), Phrase())),
    )
    for pattern, action in patterns:
        match = pattern.fullmatch(clause)
        if match:
            phrases = [read_phrase(text) for text in match.groups()]
            if any(phrase.unknown or not phrase.words for phrase in phrases):
                break
            return lambda pixels: action(pixels, *phrases)
    for word, effect in _EFFECTS.items():
        # Effects are for the whole image: "blur the dog" is beyond this editor.
        if re.fullmatch(rf"(?:(?:make|turn) {_WHOLE} )?(?:{word})(?: {_WHOLE})?", clause):
            return effect
    raise EngineUnavailable(f"needs a model backend: {instruction!r}. The classical editor can: {CAN_DO}.")


def _select(pixels: Pixels, what: Phrase) -> Pixels:
    """Return the mask of the named colours, or of the figures of the named shapes where no colour is named."""
    if what.colours:
        hsv = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), dtype=np.uint8)
        masks = [colour_mask(hsv, colour, loose=True) for colour in what.colours]
    else:
        masks = _figures(pixels, what)
    return _union(masks, what)


def _union(masks: list[Pixels], what: Phrase) -> Pixels:
    """Return the masks of what is named as one; where they are empty, it is not in the image."""
    if not any(mask.any() for mask in masks):
        raise ToolError(f"there is no {' '.join(what.words)} in the picture: use other words")
    return np.asarray(np.bitwise_or.reduce(masks), dtype=np.uint8)


def _figures(pixels: Pixels, what: Phrase) -> list[Pixels]:
    return [
        region.mask(*pixels.shape[:2])
        for region in find_regions(pixels)
        if region.fit >= _FIGURE_FIT
        and region.shape in (what.shapes or (region.shape,))
        and region.colour in (what.colours or (region.colour,))
    ]


def _replace(pixels: Pixels, what: Phrase, new: Phrase) -> Pixels:
    if not new.shapes:
        return _recolour(pixels, what, new)
    return repaint(pixels, _union(_figures(pixels, what), what), new)


def _recolour(pixels: Pixels, what: Phrase, new: Phrase) -> Pixels:
    selected = _select(pixels, what) > 0
    wanted = cv2.cvtColor(np.array([[COLOURS[new.colours[0]]]], dtype=np.uint8), cv2.COLOR_RGB2HSV)[0, 0]
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hsv[selected, 0] = wanted[0]
    out = pixels.copy()
    out[selected] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[selected]
    return out


def _scale(factor: float) -> Action:
    table = np.clip(np.round(np.arange(256) * factor), 0, 255).astype(np.uint8)
    return lambda pixels: np.asarray(cv2.LUT(pixels, table), dtype=np.uint8)


_EFFECTS: Mapping[str, Action] = MappingProxyType(
    {
        "brighten|brighter|lighter": _scale(1.3),
        "darken|darker": _scale(0.75),
        "blur|blurred|blurry": lambda pixels: np.asarray(
            cv2.GaussianBlur(pixels, (0, 0), 0.012 * max(pixels.shape[:2])), dtype=np.uint8
        ),
        "grayscale|greyscale|gray|grey": lambda pixels: np.asarray(
            cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8
        ),
    }
)
