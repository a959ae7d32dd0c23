"""Figures about masks, regions and tones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from agentfly.images import on_white
from agentfly.vision.looking.colours import visible

Box = tuple[int, int, int, int]
# A region that holds no square of this side is an edge between two colours, or a speck.
_THIN = 3


@dataclass(frozen=True)
class Region:
    """A connected region: its box, and its area in pixels."""

    box: Box
    area: int

    def moved(self, across: int, down: int) -> Region:
        """Return the region of a part of an image in the pixels of that image, whose part begins there."""
        x0, y0, x1, y1 = self.box
        return Region((x0 + across, y0 + down, x1 + across, y1 + down), self.area)


@dataclass(frozen=True)
class MaskMeasure:
    """A mask in figures. A pixel belongs to it from half of white on.

    Attributes:
        area: number of its pixels.
        share: of the image, 0 to 1.
        box: smallest box around it; None where it is empty.
        centroid: mean x and y of its pixels; None where it is empty.
        parts: number of its connected parts, corners connect.
        peak: its brightest value, 0 to 255.
    """

    area: int
    share: float
    box: Box | None
    centroid: tuple[float, float] | None
    parts: int
    peak: int


@dataclass(frozen=True)
class Tones:
    """The tones of the visible pixels of an image, 0 to 255. Brightness is the luma of ITU-R BT.601.

    Attributes:
        mean: brightness.
        percentiles: brightness below which 5, 50 and 95 of 100 pixels lie.
        rgb: mean of each channel.
        saturation: mean of (max - min) / max of the channels, 0 to 1.
        black, white: shares of the pixels whose channels are all 0, or all 255; 0 to 1.
        counts: number of pixels of each value, (3, 256) for red, green and blue.
    """

    mean: float
    percentiles: tuple[int, int, int]
    rgb: tuple[float, float, float]
    saturation: float
    black: float
    white: float
    counts: NDArray[np.int64]


def measure_mask(mask: Image.Image) -> MaskMeasure:
    """Return a mask in figures.

    Args:
        mask: mode L.
    """
    values = np.asarray(mask)
    inside = (values > 127).astype(np.uint8)
    area, peak = int(inside.sum()), int(values.max(initial=0))
    if not area:
        return MaskMeasure(0, 0.0, None, None, 0, peak)
    parts, _, _, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    rows, columns = np.nonzero(inside)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    centroid = (round(float(columns.mean()), 1), round(float(rows.mean()), 1))
    return MaskMeasure(area, area / inside.size, box, centroid, parts - 1, peak)


def regions_of(inside: NDArray[np.bool_], min_area: int = 1) -> tuple[Sequence[Region], int]:
    """Return the connected regions of a mask, the largest first, and the number of those left out as too thin or small.

    Corners connect. A region is left out if it holds no square of 3x3 pixels: soft edges make many of them.

    Args:
        inside: (H, W).
        min_area: smallest area in pixels.
    """
    pixels = inside.astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    # Pixels outside of the image do not count as inside: a square must lie in the image.
    core = cv2.erode(pixels, np.ones((_THIN, _THIN), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    thick = np.zeros(count, np.bool_)
    thick[labels[core > 0]] = True
    # The first label is that of the ground.
    kept = stats[1:][thick[1:] & (stats[1:, cv2.CC_STAT_AREA] >= min_area)].tolist()
    found = [Region((x, y, x + width, y + height), area) for x, y, width, height, area in kept]
    found.sort(key=lambda region: (-region.area, region.box[1], region.box[0]))
    return found, count - 1 - len(found)


def measure_tones(image: Image.Image) -> Tones | None:
    """Return the tones of the visible pixels; None if the whole image is transparent.

    Args:
        image: any image.
    """
    shown, seen = on_white(image), visible(image)
    count = int(seen.sum())
    if not count:
        return None
    mask = None if seen.all() else Image.fromarray(seen)
    bands = shown.split()
    highest, lowest = reduce(ImageChops.lighter, bands), reduce(ImageChops.darker, bands)

    # Counting values is many times as fast as arithmetic on pixels.
    def counted(band: Image.Image) -> NDArray[np.int64]:
        return np.array(band.histogram(mask), np.int64)

    def mean(counts: NDArray[np.int64]) -> float:
        return float(counts @ np.arange(256)) / count

    luma, channels = counted(shown.convert("L")), [counted(band) for band in bands]
    low, middle, high = (int(np.searchsorted(np.cumsum(luma), share * count)) for share in (0.05, 0.5, 0.95))
    return Tones(
        mean=mean(luma),
        percentiles=(low, middle, high),
        rgb=(mean(channels[0]), mean(channels[1]), mean(channels[2])),
        saturation=mean(counted(shown.convert("HSV").getchannel("S"))) / 255,
        black=float(counted(highest)[0]) / count,
        white=float(counted(lowest)[255]) / count,
        counts=np.stack(channels),
    )
