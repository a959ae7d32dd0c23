"""Detection by colour and shape words, on any image."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.base import Detection, Detections
from agentfly.vision.classical.regions import Pixels, Region, find_regions
from agentfly.vision.classical.words import KNOWN, Phrase, read_phrases

_TOP_SCORE = 0.94


class ClassicalDetector:
    """Finds regions of six colours in four shapes.

    A candidate's score for a phrase is `0.94 * (1 + fit) / 2 * mean(match of each word)`, where fit is how much it
    is like the shape that it is most like, a colour word matches by hue, and a shape word matches by fit if it
    names that shape. So a clean figure that has all the words scores 0.75 to 0.94, and one that has only one of two
    words about 0.45. A phrase of filling words only ("sticker") matches by fit. The mask of a detection is the
    coloured region itself.
    """

    name = "classical"

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Detections:
        """Objects that match one of the prompt's phrases, best first.

        Args:
            image: any image.
            prompt: phrases of colour and shape words, separated by full stops, commas or "and".
            box_threshold: least score.
            text_threshold: words that match less are left out of the label.

        Raises:
            ToolError: the prompt has a word that is neither a known colour, shape nor filling.
        """
        phrases = read_phrases(prompt)
        _check(prompt, phrases)
        return await asyncio.to_thread(_detect, image, phrases, box_threshold, text_threshold)


def _check(prompt: str, phrases: Sequence[Phrase]) -> None:
    unknown = [word for phrase in phrases for word in phrase.unknown]
    if unknown:
        words = ", ".join(f"'{word}'" for word in unknown)
        raise ToolError(f"the classical detector does not know {words}. It knows {KNOWN}.")
    if not phrases:
        raise ToolError(f"the prompt {prompt!r} names nothing. The classical detector knows {KNOWN}.")


def _detect(image: Image.Image, phrases: Sequence[Phrase], box_threshold: float, text_threshold: float) -> Detections:
    pixels = np.asarray(image.convert("RGB"))
    found: list[tuple[float, str, Region]] = []
    best_rejected: float | None = None
    for region in find_regions(pixels):
        score, phrase = max(((_score(region, phrase), phrase) for phrase in phrases), key=lambda pair: pair[0])
        if score >= box_threshold:
            found.append((score, _label(region, phrase, text_threshold), region))
        elif score > (best_rejected or 0.0):
            best_rejected = round(score, 4)
    found.sort(key=lambda entry: -entry[0])
    return Detections(
        [_detection(region, label, score, pixels) for score, label, region in found], best_rejected=best_rejected
    )


def _word_match(region: Region, word: str) -> float:
    if word == region.colour:
        return region.colour_match
    return region.fit if word == region.shape else 0.0


def _score(region: Region, phrase: Phrase) -> float:
    matches = [_word_match(region, word) for word in phrase.words] or [region.fit]
    return _TOP_SCORE * (1.0 + region.fit) / 2 * sum(matches) / len(matches)


def _label(region: Region, phrase: Phrase, text_threshold: float) -> str:
    words = [word for word in phrase.words if _word_match(region, word) >= max(text_threshold, 1e-6)]
    return " ".join(words) or "object"


def _detection(region: Region, label: str, score: float, pixels: Pixels) -> Detection:
    mask = Image.fromarray(region.mask(*pixels.shape[:2]))
    return Detection(label, round(score, 4), region.box, mask)
