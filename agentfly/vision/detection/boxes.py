"""Convert the output of a detector model to `Detections`: boxes inside the image and their masks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.base import Detection, Detections


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
        raise ToolError(f"the detection prompt {prompt!r} names nothing: say in a few words what to find")
    return " ".join(f"{phrase}." for phrase in named)


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
