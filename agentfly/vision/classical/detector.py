"""Detection by colour and shape words, on any image: its regions of one colour, and their likeness to the words.

A colour is a range of hue with enough saturation and brightness. A shape is described by the distance of a region's
edge from its centroid as a function of the angle: the magnitudes of its Fourier series do not depend on place, size or
rotation, and are compared with those of the ideal figures (Fourier descriptors of the centroid distance: Zhang and
Lu, "Review of shape representation and description techniques", Pattern Recognition 37, 2004).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.errors import ToolError
from agentfly.images import on_white
from agentfly.vision.base import Detection, Detections
from agentfly.vision.classical.words import KNOWN, Phrase, read_phrases
from agentfly.vision.shapes import SHAPES, outline

Pixels = NDArray[np.uint8]

# Centre and half width in OpenCV's hue (0 to 179, half degrees).
_HUES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "red": (178.5, 8.0),
        "orange": (15.5, 5.5),
        "yellow": (26.0, 5.5),
        "green": (66.0, 24.0),
        "blue": (114.0, 13.0),
        "purple": (144.0, 14.0),
    }
)
_TOP_SCORE = 0.94
_STRICT, _LOOSE = (110, 70), (70, 50)
_MIN_AREA, _MAX_REGIONS = 30, 40
_ANGLES, _ORDERS, _PATCH = 64, 10, 48
# Distance between descriptors from which a region has no likeness to a shape.
_UNLIKE = 0.22
# Without the second flag OpenCV leaves what lies outside of the image uninitialised.
_POLAR_FLAGS = cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS


@dataclass(frozen=True)
class Region:
    """A connected region of one colour.

    Attributes:
        colour: name of the colour.
        colour_match: closeness of its mean hue to the middle of the colour, 0 to 1.
        box: (x0, y0, x1, y1), end exclusive.
        patch: bool (y1 - y0, x1 - x0), the region within its box.
    """

    colour: str
    colour_match: float
    box: tuple[int, int, int, int]
    patch: NDArray[np.bool_]

    @cached_property
    def shape_matches(self) -> Mapping[str, float]:
        """Likeness to each shape, 0 to 1."""
        return shape_matches(self.patch)

    @property
    def shape(self) -> str:
        """The shape that it resembles most."""
        return max(self.shape_matches, key=self.shape_matches.__getitem__)

    @property
    def fit(self) -> float:
        """Likeness to that shape, 0 to 1."""
        return self.shape_matches[self.shape]

    def mask(self, height: int, width: int) -> Pixels:
        """Return a mask (height, width) that is 255 in the region and 0 elsewhere."""
        out = np.zeros((height, width), dtype=np.uint8)
        x0, y0, x1, y1 = self.box
        out[y0:y1, x0:x1][self.patch] = 255
        return out


def colour_mask(hsv: Pixels, colour: str, *, loose: bool = False) -> Pixels:
    """Return a mask (H, W) that is 255 where an image has a colour.

    Args:
        hsv: image in OpenCV's HSV (H, W, 3).
        colour: name of the colour.
        loose: take pale and dark pixels, too.
    """
    saturation, value = _LOOSE if loose else _STRICT
    centre, half = _HUES[colour]
    low, high = centre - half, centre + half
    spans = [(low, min(high, 179.0))] + ([(0.0, high - 180.0)] if high >= 180 else [])
    masks = [cv2.inRange(hsv, np.array([a, saturation, value]), np.array([b, 255.0, 255.0])) for a, b in spans]
    return np.asarray(masks[0] if len(masks) == 1 else masks[0] | masks[1], dtype=np.uint8)


def find_regions(pixels: Pixels) -> list[Region]:
    """Return the largest coloured regions of an RGB image (H, W, 3)."""
    hsv = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), dtype=np.uint8)
    found = [(area, region) for colour in _HUES for area, region in _regions_of(hsv, colour)]
    found.sort(key=lambda pair: -pair[0])
    return [region for _, region in found[:_MAX_REGIONS]]


def _regions_of(hsv: Pixels, colour: str) -> list[tuple[int, Region]]:
    mask, (centre, half) = colour_mask(hsv, colour), _HUES[colour]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    smallest = max(_MIN_AREA, int(0.0005 * mask.size))
    large = [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= smallest]
    large.sort(key=lambda label: -int(stats[label, cv2.CC_STAT_AREA]))
    out = []
    for label in large[:_MAX_REGIONS]:
        x, y, width, height, area = (int(value) for value in stats[label])
        patch = labels[y : y + height, x : x + width] == label
        hues = hsv[y : y + height, x : x + width, 0][patch]
        # Hue is a circle: the distance goes the shorter way round.
        away = (hues.astype(np.float32) - centre + 90.0) % 180.0 - 90.0
        match = 1.0 - 0.4 * min(1.0, abs(float(away.mean())) / half)
        out.append((area, Region(colour, match, (x, y, x + width, y + height), patch)))
    return out


def shape_matches(patch: NDArray[np.bool_]) -> dict[str, float]:
    """Return the likeness of a region (H, W) to each shape, 0 to 1."""
    descriptor = _descriptor(patch)
    return {
        shape: max(0.0, 1.0 - float(np.linalg.norm(descriptor - ideal)) / _UNLIKE) for shape, ideal in _ideals().items()
    }


def _descriptor(patch: NDArray[np.bool_]) -> NDArray[np.float32]:
    scale = _PATCH / max(patch.shape)
    size = (max(2, round(patch.shape[1] * scale)), max(2, round(patch.shape[0] * scale)))
    area = cv2.resize(patch.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    area = cv2.copyMakeBorder(area, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=0)
    moments = cv2.moments(area)
    centre = (moments["m10"] / moments["m00"], moments["m01"] / moments["m00"])
    polar = cv2.warpPolar(area, (_PATCH, _ANGLES), centre, float(_PATCH), _POLAR_FLAGS)
    lengths = np.asarray(polar, dtype=np.float32).sum(axis=1)
    relative = lengths / max(float(lengths.mean()), 1e-6)
    return np.asarray(np.abs(np.fft.rfft(relative))[1 : _ORDERS + 1] / len(lengths) * 2, dtype=np.float32)


@cache
def _ideals() -> Mapping[str, NDArray[np.float32]]:
    out = {}
    for shape in SHAPES:
        canvas = np.zeros((128, 128), dtype=np.uint8)
        points = np.round((outline(shape) * 44 + 64) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [points], 1, shift=4)
        rows, columns = np.nonzero(canvas)
        crop = canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        out[shape] = _descriptor(crop.astype(bool))
    return MappingProxyType(out)


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
    pixels = np.asarray(on_white(image))
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
