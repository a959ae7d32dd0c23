"""Coloured figures with a white die-cut border: their names, their drawing, and the largest that fits a region.

The sticker world and the classical engines draw with it. NumPy only. Lengths are in pixels; the centre of the top left
pixel is (0, 0).

The size of a figure is its `radius`: the circumradius of its coloured part (half the side for a square). The border
lies outside of it and has round corners.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (225, 30, 35),
        "green": (30, 165, 60),
        "blue": (35, 75, 225),
        "yellow": (250, 220, 40),
        "purple": (150, 50, 180),
        "orange": (250, 140, 20),
    }
)
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")
WHITE = (250, 250, 250)

_STAR_INNER = 0.45
# A region of whole pixels cuts tips and corners: the share of an outline that must lie inside, and how far outside (in
# pixels) the rest may lie.
_FIT_SHARE, _FIT_SLACK = 0.88, 1.0


def _ring(count: int, inner: float = 1.0) -> NDArray[np.float64]:
    angles = 2 * np.pi * np.arange(count) / count - np.pi / 2
    lengths = np.where(np.arange(count) % 2 == 0, 1.0, inner)
    return np.stack([np.cos(angles) * lengths, np.sin(angles) * lengths], axis=1)


# Corners (K, 2) of figures of radius 1 around their centroid.
_CORNERS: Mapping[str, NDArray[np.float64]] = MappingProxyType(
    {
        "square": np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]),
        "triangle": _ring(3),
        "star": _ring(10, _STAR_INNER),
    }
)


def outline(shape: str, count: int = 120) -> NDArray[np.float64]:
    """Return points (N, 2) along the edge of a figure of radius 1 around its centroid, corners included.

    Args:
        shape: one of `SHAPES`.
        count: number of points, rounded down to a multiple of the number of corners.
    """
    if shape == "circle":
        return _ring(count)
    corners = _CORNERS[shape]
    steps = np.arange(count // len(corners)) / (count // len(corners))
    edges = np.roll(corners, -1, axis=0) - corners
    return (corners[:, None] + steps[None, :, None] * edges[:, None]).reshape(-1, 2)


def signed_distance(shape: str, radius: float, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of points from the edge of a figure around the origin; negative inside.

    Args:
        shape: one of `SHAPES`.
        radius: size of the figure.
        points: (..., 2), as x and y.

    Returns:
        Distances (...).
    """
    if shape == "circle":
        return np.asarray(np.hypot(points[..., 0], points[..., 1]) - radius)
    x, y = points[..., 0], points[..., 1]
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    corners = _CORNERS[shape] * radius
    # Edge by edge: arrays of (edges, points, 2) are several times slower.
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        nearest = np.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        if ey != 0.0:
            # Even-odd rule: an edge counts when the point's height is between its ends and the point is left of it.
            inside ^= ((y < ay) != (y < by)) & (px < ex * py / ey)
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def border_width(width: int, height: int) -> float:
    """Return the width of the white border in an image of this size: 2 % of the shorter side, at least 1.5 px."""
    return max(1.5, 0.02 * min(width, height))


@dataclass(frozen=True)
class Figure:
    """One figure in an image.

    Attributes:
        shape, colour: names from `SHAPES` and `COLOURS`.
        x, y: centroid.
        radius: size of the coloured part.
        border: width of the white border.
        fill: RGB of the coloured part where it is another shade than the one of `COLOURS`.
    """

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    border: float
    fill: tuple[int, int, int] | None = None

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Smallest box of whole pixels around figure and border, end exclusive."""
        points = outline(self.shape) * self.radius + (self.x, self.y)
        low, high = points.min(axis=0) - self.border, points.max(axis=0) + self.border
        return (
            int(np.floor(low[0] + 0.5)),
            int(np.floor(low[1] + 0.5)),
            int(np.ceil(high[0] + 0.5)),
            int(np.ceil(high[1] + 0.5)),
        )

    def depth(self, height: int, width: int) -> NDArray[np.float64]:
        """Return the depth of each pixel (height, width) inside figure and border; negative outside."""
        rows, columns = np.mgrid[0:height, 0:width]
        return self.border - self._distance(rows, columns)

    def draw(self, pixels: NDArray[np.uint8]) -> None:
        """Draw into RGB pixels (H, W, 3), anti-aliased, in place; parts outside of the image are cut."""
        height, width = pixels.shape[:2]
        x0, y0, x1, y1 = self.box
        x0, y0, x1, y1 = max(x0 - 1, 0), max(y0 - 1, 0), min(x1 + 1, width), min(y1 + 1, height)
        if x0 >= x1 or y0 >= y1:
            return
        rows, columns = np.mgrid[y0:y1, x0:x1]
        distance = self._distance(rows, columns)
        window = pixels[y0:y1, x0:x1].astype(np.float64)
        for colour, grow in ((WHITE, self.border), (self.fill or COLOURS[self.colour], 0.0)):
            cover = np.clip(0.5 + grow - distance, 0.0, 1.0)[..., None]
            window += cover * (np.array(colour) - window)
        pixels[y0:y1, x0:x1] = np.round(window).astype(np.uint8)

    def _distance(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        points = np.stack([columns - self.x, rows - self.y], axis=-1)
        return signed_distance(self.shape, self.radius, points)


def largest_inside(depth: NDArray[np.floating], shape: str, x: float, y: float, border: float) -> float:
    """Return the radius of the largest figure that lies, with its border, inside a region; 0 when none does.

    Args:
        depth: (H, W), distance of each pixel to the edge of the region, positive inside.
        shape: one of `SHAPES`.
        x, y: centroid of the figure.
        border: width of its border.
    """
    height, width = depth.shape
    radii = np.arange(0.0, 0.75 * max(height, width), 0.5)
    # Coarse up to the first radius that no longer fits, then fine.
    found = 0.0
    for _ in range(2):
        points = outline(shape, 60)[None] * radii[:, None, None] + (x, y)
        spare = _sample(depth, points) - border
        fits = ((spare >= 0).mean(axis=1) >= _FIT_SHARE) & (spare >= -_FIT_SLACK).all(axis=1)
        if not fits[0]:
            return 0.0
        last = len(radii) - 1 if fits.all() else int(np.argmin(fits)) - 1
        found = float(radii[last])
        radii = np.linspace(found, found + 0.5, 11)
    return found


def _sample(field: NDArray[np.floating], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the bilinear values of a field (H, W) at points (..., 2); -1e9 outside of it."""
    height, width = field.shape
    x, y = points[..., 0], points[..., 1]
    valid = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    left = np.clip(np.floor(x).astype(int), 0, width - 2)
    top = np.clip(np.floor(y).astype(int), 0, height - 2)
    u, v = x - left, y - top
    upper = field[top, left] * (1 - u) + field[top, left + 1] * u
    lower = field[top + 1, left] * (1 - u) + field[top + 1, left + 1] * u
    return np.where(valid, upper * (1 - v) + lower * v, -1e9)
