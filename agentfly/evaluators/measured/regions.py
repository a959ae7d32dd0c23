"""Rectangles of an image: the smallest ones that hold what matters, joined, cut and grown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Region = tuple[slice, slice]


def bounds(matters: NDArray[np.bool_]) -> Region:
    """Return the smallest region with all pixels that are True (H, W), of which there is at least one."""
    rows, columns = (np.flatnonzero(matters.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Region | None:
    """Return the smallest region outside of which two images (H, W, C) are equal; None if they are equal everywhere."""
    import cv2

    away = cv2.absdiff(a, b)
    # Rows first: reducing the three channels of each pixel would take longer than all else.
    rows = np.flatnonzero(away.reshape(len(away), -1).any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(away.any(axis=0).any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def joint(a: Region, b: Region | None) -> Region:
    """Return the smallest region that holds both."""
    if b is None:
        return a
    rows, columns = (slice(min(x.start, y.start), max(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
    return rows, columns


def common(a: Region, b: Region) -> Region | None:
    """Return the intersection of two regions; None if they do not overlap."""
    rows, columns = (slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def grown(region: Region, by: int, shape: tuple[int, ...]) -> Region:
    """Return the region with `by` more pixels on each side, cut at the border of an image of this shape."""
    rows, columns = (
        slice(max(0, span.start - by), min(size, span.stop + by)) for span, size in zip(region, shape[:2], strict=True)
    )
    return rows, columns


def relative(inner: Region, outer: Region) -> Region:
    """Return a region in the coordinates of another one that holds it."""
    rows, columns = (slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))
    return rows, columns


def size_of(region: Region) -> tuple[int, int]:
    """Return the rows and columns of a region."""
    rows, columns = (span.stop - span.start for span in region)
    return rows, columns


def strips(region: Region, pixels: int) -> list[Region]:
    """Return the region in strips of its rows, from top to bottom.

    Args:
        region: to divide.
        pixels: of a strip at most, if a row has no more.
    """
    span, columns = region
    rows = max(1, pixels // (columns.stop - columns.start))
    return [(slice(start, min(start + rows, span.stop)), columns) for start in range(span.start, span.stop, rows)]
