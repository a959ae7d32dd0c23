"""Detections: made from the output of a detector model, with boxes inside the image and masks, and drawn on a copy."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from agentfly.errors import ToolError, shortened
from agentfly.images import on_white
from agentfly.vision.base import Detection, Detections

# Hues far apart from each other, dark enough for white text.
_COLOURS = ((214, 39, 40), (31, 119, 180), (44, 140, 44), (148, 80, 180), (200, 95, 0), (0, 130, 140), (160, 40, 110))

# GroundingDINO and MM-Grounding-DINO cut their prompts here.
MAX_TOKENS = 256
# Times that one side of an image is as long as the other, at most: they scale the longer one to 1333 pixels and ask for
# the best 900 places, which a narrower image has not.
MAX_RATIO = 40
_SIGNS = r"!-/:-@\[-`{-~"
_PIECES = re.compile(rf"[{_SIGNS}]|[^\s{_SIGNS}]+")


def draw_detections(image: Image.Image, detections: Sequence[Detection]) -> Image.Image:
    """Return a copy of the image in RGB with each detection's box, label and score; one label has one colour.

    The best detection is drawn last, so that it lies on top.

    Args:
        image: any image.
        detections: on this image, best first.
    """
    canvas = on_white(image).copy()
    draw = ImageDraw.Draw(canvas)
    line = max(1, round(min(canvas.size) / 200))
    font = ImageFont.load_default(size=max(10, round(min(canvas.size) / 32)))
    labels = list(dict.fromkeys(detection.label for detection in detections))
    for detection in reversed(detections):
        colour = _COLOURS[labels.index(detection.label) % len(_COLOURS)]
        x0, y0, x1, y1 = detection.box
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=line)
        # The label stands above its box, or inside where there is no room above.
        text = f"{detection.label} {detection.score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 4, bottom - top + 4
        x = max(0, min(x0, canvas.width - width))
        y = y0 - height if y0 >= height else y0
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
        draw.text((x + 2 - left, y + 2 - top), text, fill=(255, 255, 255), font=font)
    return canvas


@dataclass(frozen=True)
class Candidate:
    """One box of a model: label, score 0 to 1, corners in pixels of the image, not yet cut to it."""

    label: str
    score: float
    corners: tuple[float, float, float, float]


def normalise_prompt(prompt: str) -> str:
    """Return a detection prompt in the form of GroundingDINO's training: lower case, "a cat. a dog.".

    Raises:
        ToolError: the prompt names nothing.
    """
    phrases = (" ".join(part.split()) for part in re.split(r"[.,;\n]+", prompt.lower()))
    named = [phrase for phrase in phrases if phrase]
    if not named:
        raise ToolError(f"the detection prompt {shortened(prompt)!r} names nothing: say in a few words what to find")
    return " ".join(f"{phrase}." for phrase in named)


def too_long(tokens: object, limit: int) -> str:
    """Return the message for a detection prompt that the text encoder does not take whole.

    Args:
        tokens: number of its tokens, in words.
        limit: number of tokens that the encoder takes.
    """
    return f"the detection prompt has {tokens} tokens and the detector takes {limit}: name fewer things, in fewer words"


def check_length(tokens: int, limit: int) -> None:
    """Raise `ToolError` for a prompt that a text encoder would cut, which loses what its end names.

    Args:
        tokens: of the prompt, the special ones included.
        limit: that the encoder takes.

    Raises:
        ToolError: the prompt is too long.
    """
    if tokens > limit:
        raise ToolError(too_long(tokens, limit))


def least_tokens(caption: str) -> int:
    """Return a number of tokens that a prompt of `normalise_prompt` has at least, with any vocabulary of BERT."""
    # BERT begins with [CLS], ends with [SEP], and never joins words or signs.
    return len(_PIECES.findall(caption)) + 2


def clean_label(decoded: str, caption: str) -> str:
    """Return the words of a label.

    Args:
        decoded: the decoded tokens of the label, with full stops and special tokens.
        caption: the prompt, which is the label where no token passed.
    """
    words = re.sub(r"\[[A-Z]+\]|\.", " ", decoded).split()
    return " ".join(words) or caption.replace(".", "")


def to_detections(
    candidates: Iterable[Candidate], size: tuple[int, int], *, best_rejected: float | None = None
) -> Detections:
    """Return detections, best first, each with its box as mask; boxes are cut to the image, or dropped outside of it.

    Args:
        candidates: the boxes above the threshold.
        size: width and height of the image in pixels.
        best_rejected: best score below the threshold, if known.
    """
    found = []
    for candidate in sorted(candidates, key=lambda one: -one.score):
        box = clip_box(candidate.corners, size)
        if box is not None:
            found.append(Detection(candidate.label, min(1.0, candidate.score), box, box_mask(box, size)))
    return Detections(found, best_rejected=best_rejected)


def clip_box(corners: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return the smallest box of whole pixels around corners, cut to the image; None where nothing is left.

    Args:
        corners: x0, y0, x1, y1 in pixels.
        size: width and height of the image in pixels.
    """
    if not all(map(math.isfinite, corners)):
        return None
    x0, y0 = max(0, math.floor(corners[0])), max(0, math.floor(corners[1]))
    x1, y1 = min(size[0], math.ceil(corners[2])), min(size[1], math.ceil(corners[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def box_mask(box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """Return a mask (mode L) that is white in a box.

    Args:
        box: x0, y0, x1, y1 in pixels, end exclusive.
        size: width and height of the mask in pixels.
    """
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask
