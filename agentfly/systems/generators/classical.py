"""Images without weights: figures that a prompt names are drawn, existing images are edited by a small grammar.

`CAN_DRAW` says what can be drawn. Every other request is refused, and nothing is made up.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from agentfly.errors import EngineUnavailable
from agentfly.systems.generators.base import GeneratedImage, ImageRequest
from agentfly.vision.base import EditParams
from agentfly.vision.shapes import COLOURS, SHAPES, WHITE, Figure, border_width

CAN_DRAW = (
    f"a COLOUR SHAPE, several of them joined by 'and', on a COLOUR background; colours are {', '.join(COLOURS)}, "
    f"shapes {', '.join(SHAPES)}, backgrounds also white, black, grey and transparent"
)
_GROUNDS = {"white": WHITE, "black": (15, 15, 15), "grey": (128, 128, 128), "gray": (128, 128, 128), **COLOURS}
_LEAD = re.compile(r"^(?:please )?(?:draw|paint|make|(?:an?|the) (?:picture|drawing|image) of) (?:me )?")
_GROUND = re.compile(rf" (?:on|against|with) an? (?P<ground>{'|'.join((*_GROUNDS, 'transparent'))}) background$")
_FIGURE = re.compile(rf"(?:an?|one|the) (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})(?: sticker)?")
_SIDE = 1024


@dataclass(frozen=True)
class Drawing:
    """The contents of a drawing.

    Attributes:
        figures: colour and shape of each figure, from left to right.
        ground: name of the background; None where the prompt names none.
    """

    figures: tuple[tuple[str, str], ...]
    ground: str | None


class ClassicalGenerator:
    """A generator without weights: it draws figures, and edits images by the grammar of the embedded editor.

    Args:
        size: width and height of a drawing in pixels.
        transparent: leave the background of a drawing transparent where the prompt names none.
    """

    name = "classical"

    def __init__(self, size: tuple[int, int] | None = None, *, transparent: bool = False) -> None:
        self._size = size or (_SIDE, _SIDE)
        self._transparent = transparent

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make an image; see `ImageGenerator`."""
        drawing = read_drawing(request.prompt)
        if drawing is not None:
            image = await asyncio.to_thread(draw, drawing, self._size, transparent=self._transparent)
            return GeneratedImage(image)
        if not request.starts:
            raise EngineUnavailable(
                f"needs a model backend: the classical generator draws {CAN_DRAW}. It can also edit a reference image"
            )
        # OpenCV is loaded when something is edited.
        from agentfly.vision.classical import classical_engines

        editor = classical_engines().editor
        return GeneratedImage(await editor.edit(request.starts[0], request.prompt, EditParams()))

    async def close(self) -> None:
        """Do nothing: there is nothing to free."""


def read_drawing(prompt: str) -> Drawing | None:
    """Return the drawing that a prompt names, or None where a word of it is not in the grammar."""
    text = _LEAD.sub("", " ".join(prompt.lower().split()).rstrip(".!"))
    ground = _GROUND.search(text)
    if ground is not None:
        text = text[: ground.start()]
    matches = [_FIGURE.fullmatch(part.strip()) for part in re.split(r",(?: and)?| and ", text)]
    figures = tuple((match["colour"], match["shape"]) for match in matches if match is not None)
    if len(figures) < len(matches):
        return None
    return Drawing(figures, ground["ground"] if ground is not None else None)


def draw(drawing: Drawing, size: tuple[int, int], *, transparent: bool = False) -> Image.Image:
    """Draw figures in a row.

    Args:
        drawing: figures and ground.
        size: width and height in pixels.
        transparent: leave the ground transparent where the drawing names none; it is white otherwise.

    Returns:
        An image of mode RGB, or of mode RGBA with a transparent ground.
    """
    ground = drawing.ground or ("transparent" if transparent else "white")
    if ground != "transparent":
        return Image.fromarray(_figures(drawing, size, _GROUNDS[ground]))
    # A pixel that is the same on white and on black is opaque.
    light = _figures(drawing, size, (255, 255, 255)).astype(np.int32)
    dark = _figures(drawing, size, (0, 0, 0)).astype(np.int32)
    alpha = 255 - (light - dark).max(axis=2).clip(0, 255)
    colour = dark * 255 // np.maximum(alpha, 1)[..., None]
    return Image.fromarray(np.dstack([colour.clip(0, 255), alpha]).astype(np.uint8))


def _figures(
    drawing: Drawing, size: tuple[int, int], ground: tuple[int, int, int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    width, height = size
    pixels = np.full((height, width, 3), ground, np.uint8)
    share = width / len(drawing.figures)
    radius, border = 0.35 * min(share, height), border_width(width, height)
    for index, (colour, shape) in enumerate(drawing.figures):
        Figure(shape, colour, (index + 0.5) * share, height / 2, radius, border).draw(pixels)
    return pixels
