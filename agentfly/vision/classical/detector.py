"""Detection by colour and shape words, on any image."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.base import Detection, Detections
from agentfly.vision.classical.regions import Region, find_regions
from agentfly.vision.classical.words import KNOWN, Phrase, read_phrases

_TOP_SCORE = 0.94


class ClassicalDetector:
    """Finds regions of six colours in four shapes.

    A candidate's score for a phrase is `0.94 * (1 + fit) / 2 * mean(match of each word)`. Fit is its likeness to the
    shape that it resembles most; a colour word matches by hue, and a shape word by fit if it names that shape. So a
    clean figure with all the words scores 0.75 to 0.94, and one with only one of two words about 0.45. A phrase of
    filling words only ("sticker") matches by fit. The mask of a detection is the coloured region itself.
    """

    name = "classical"

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Detections:
        """Return the objects that match one of the prompt's phrases, best first.

        Args:
            image: any image.
            prompt: phrases of colour and shape words, separated by full stops, commas or "and".
            box_threshold: least score of an object, 0 to 1.
            text_threshold: least match of a word of its label, 0 to 1.

        Raises:
            ToolError: the prompt has a word that is neither a known colour, shape nor filling.
        """
        phrases = read_phrases(prompt)
        unknown = [word for phrase in phrases for word in phrase.unknown]
        if unknown:
            words = ", ".join(f"'{word}'" for word in unknown)
            raise ToolError(f"the classical detector does not know {words}. It knows {KNOWN}.")
        if not phrases:
            raise ToolError(f"the prompt {prompt!r} names nothing. The classical detector knows {KNOWN}.")
        return await asyncio.to_thread(_detect, image, phrases, box_threshold, text_threshold)


def _detect(image: Image.Image, phrases: Sequence[Phrase], box_threshold: float, text_threshold: float) -> Detections:
    pixels = np.asarray(image.convert("RGB"))
    found: list[Detection] = []
    best_rejected: float | None = None
    for region in find_regions(pixels):
        score, phrase = max(((_score(region, phrase), phrase) for phrase in phrases), key=lambda pair: pair[0])
        if score >= box_threshold:
            words = [word for word in phrase.words if _word_match(region, word) >= max(text_threshold, 1e-6)]
            mask = Image.fromarray(region.mask(*pixels.shape[:2]))
            found.append(Detection(" ".join(words) or "object", score, region.box, mask))
        elif score > (best_rejected or 0.0):
            best_rejected = round(score, 4)
    found.sort(key=lambda detection: -detection.score)
    rounded = [replace(detection, score=round(detection.score, 4)) for detection in found]
    return Detections(rounded, best_rejected=best_rejected)


def _word_match(region: Region, word: str) -> float:
    if word == region.colour:
        return region.colour_match
    return region.fit if word == region.shape else 0.0


def _score(region: Region, phrase: Phrase) -> float:
    matches = [_word_match(region, word) for word in phrase.words] or [region.fit]
    return _TOP_SCORE * (1.0 + region.fit) / 2 * sum(matches) / len(matches)
