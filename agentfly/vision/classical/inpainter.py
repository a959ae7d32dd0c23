"""Inpainting without weights: remove what a mask covers, or draw the figure that a prompt names into it."""

from __future__ import annotations

import asyncio

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.vision.base import InpaintParams
from agentfly.vision.classical.detector import Pixels, colour_mask, shape_matches
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
    painted = repaint(pixels, weights, phrase)
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
