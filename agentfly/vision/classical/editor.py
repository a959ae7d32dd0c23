"""Whole-image editing by a small grammar, without weights.

A colour word means every pixel of that colour in the image: an editor of whole images has no mask, so it recolours the
photograph along with the sticker and leaves the sticker's border behind. The local tools do better; this one is quick.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import cv2
import numpy as np
from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.vision.base import EditParams
from agentfly.vision.classical.detector import Pixels, colour_mask, find_regions
from agentfly.vision.classical.inpainter import repaint
from agentfly.vision.classical.words import KNOWN, Phrase, read_phrase
from agentfly.vision.shapes import COLOURS

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
    return lambda pixels: np.clip(np.round(pixels * factor), 0, 255).astype(np.uint8)


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
