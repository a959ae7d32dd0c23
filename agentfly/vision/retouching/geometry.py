"""Geometry: crop, flip, rotate, resize, and perspective.

Positions are in pixels from the top left corner of the image: the first pixel reaches from 0 to 1. What is resampled is
resampled in linear light, and a colour counts as much as it is opaque. Crops, flips and quarter turns are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agentfly.errors import ConfigError
from agentfly.vision.retouching.light import (
    Pixels,
    check_pixels,
    check_range,
    encoded,
    linear_light,
    opacity,
    quantised,
    white_of,
)

MOST_SIDE = 8192
# OpenCV addresses the pixels of a warp with 16 bits.
_MOST_WARPED = 32766
# Pixels of a warp that is larger than its source. Without a limit, calls on the results of calls would fill the memory.
_MOST_MADE = 4096 * 4096
_Plane = NDArray[np.float32]
_Matrix = NDArray[np.float64]


def crop(pixels: Pixels, left: int, top: int, right: int, bottom: int) -> Pixels:
    """Return a part of an image.

    Args:
        pixels: (H, W, 3 or 4), uint8 or uint16.
        left: first column.
        top: first row.
        right: column after the last one, at most W.
        bottom: row after the last one, at most H.

    Raises:
        ConfigError: these are no pixels, or the part is empty or not inside the image.
    """
    check_pixels(pixels)
    height, width = pixels.shape[:2]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ConfigError(
            f"the part ({left}, {top}, {right}, {bottom}) is not inside the image, which is {width}x{height}: "
            f"left < right <= {width} and top < bottom <= {height}"
        )
    return pixels[top:bottom, left:right].copy()


def flip(pixels: Pixels, direction: Literal["horizontal", "vertical"]) -> Pixels:
    """Return an image mirrored: left and right exchanged (horizontal), or top and bottom (vertical).

    Raises:
        ConfigError: these are no pixels, or there is no such direction.
    """
    check_pixels(pixels)
    if direction not in ("horizontal", "vertical"):
        raise ConfigError(f"direction is horizontal or vertical, not {direction!r}")
    return (pixels[:, ::-1] if direction == "horizontal" else pixels[::-1]).copy()


def rotate(pixels: Pixels, degrees: float, *, expand: bool = False) -> Pixels:
    """Return an image turned clockwise. Quarter turns are exact; others interpolate bicubically.

    Args:
        pixels: (H, W, 3 or 4), uint8 or uint16.
        degrees: -360 to 360; positive is clockwise.
        expand: False cuts to the largest upright rectangle that the turned image fills; True keeps all of it, and the
            corners become transparent.

    Returns:
        The turned image, in RGBA if there are transparent corners.

    Raises:
        ConfigError: these are no pixels, the angle is out of its range, or the image is too large.
    """
    check_pixels(pixels)
    check_range("degrees", degrees, -360, 360)
    if degrees % 90 == 0:
        return np.rot90(pixels, -int(degrees // 90)).copy()
    height, width = pixels.shape[:2]
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    if expand:
        wide = math.ceil(width * abs(cos) + height * abs(sin))
        high = math.ceil(width * abs(sin) + height * abs(cos))
    else:
        wide, high = _filled(width, height, abs(cos), abs(sin))
    # From a place in the result to the place in the source: turned back around the middle.
    back = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    matrix = _moved(width / 2, height / 2) @ back @ _moved(-wide / 2, -high / 2)
    return _warped(pixels, matrix, wide, high, transparent=expand)


def _filled(width: int, height: int, cos: float, sin: float) -> tuple[int, int]:
    """Return width and height of the largest upright rectangle inside a turned one, at least 1x1.

    Either its corners touch all four sides, or (of a narrow image, turned far) two of them touch the long sides, and
    half of the short side is all it can have across.
    """
    long, short = max(width, height), min(width, height)
    if short <= 2 * sin * cos * long or abs(sin - cos) < 1e-10:
        across, along = short / (2 * sin), short / (2 * cos)
        wide, high = (across, along) if width >= height else (along, across)
    else:
        both = cos * cos - sin * sin
        wide, high = (width * cos - height * sin) / both, (height * cos - width * sin) / both
    return max(1, math.floor(wide)), max(1, math.floor(high))


def straighten_perspective(
    pixels: Pixels, corners: Sequence[tuple[float, float]], *, size: tuple[int, int] | None = None
) -> Pixels:
    """Return a four-sided part of an image as an upright rectangle, as of a sign that was seen at an angle.

    The four corners decide the projective map between the two; pixels are interpolated bicubically.

    Args:
        pixels: (H, W, 3 or 4), uint8 or uint16.
        corners: (x, y) of the corners that become top left, top right, bottom right and bottom left; inside the image,
            which ends included reaches from (0, 0) to (W, H).
        size: width and height of the result; by default each is the longer of the two sides that become it.

    Raises:
        ConfigError: these are no pixels, the corners are not those of a shape that can be straightened, or the size is
            out of its range or too large.
    """
    check_pixels(pixels)
    height, width = pixels.shape[:2]
    places = np.array(corners, np.float64)
    if places.shape != (4, 2) or not np.isfinite(places).all():
        raise ConfigError("corners are four pairs of x and y")
    if (places < 0).any() or (places > (width, height)).any():
        raise ConfigError(f"a corner lies outside of the image, which is {width}x{height}")
    sides = np.roll(places, -1, axis=0) - places
    following = np.roll(sides, -1, axis=0)
    if (sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0] < 1).any():
        raise ConfigError(
            "the corners must go clockwise around a shape without dents: top left, top right, bottom right, bottom left"
        )
    lengths = np.hypot(sides[:, 0], sides[:, 1])
    wide, high = size or (max(1, round(max(lengths[0::2]))), max(1, round(max(lengths[1::2]))))
    _check_size(wide, high)
    if (wide, high) == (width, height) and places.tolist() == [[0, 0], [wide, 0], [wide, high], [0, high]]:
        return pixels.copy()
    return _warped(pixels, _homography(wide, high, places), wide, high)


def _homography(wide: int, high: int, places: _Matrix) -> _Matrix:
    """Return the projective map that takes the corners of a rectangle to four places."""
    rows, values = [], []
    for (x, y), (u, v) in zip(((0, 0), (wide, 0), (wide, high), (0, high)), places.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows, np.float64), np.array(values)), 1.0).reshape(3, 3)


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return an image in another size.

    A side that shrinks is averaged over the area of each new pixel, in linear light, so the mean of the light stays and
    fine patterns keep their brightness. A side that grows is interpolated bicubically.

    Args:
        pixels: (H, W, 3 or 4), uint8 or uint16.
        width: pixels, 1 to 8192.
        height: pixels, 1 to 8192.

    Raises:
        ConfigError: these are no pixels, or the size is out of its range.
    """
    import cv2

    check_pixels(pixels)
    _check_size(width, height)
    before = pixels.shape[:2]
    if before == (height, width):
        return pixels.copy()

    def resized(plane: _Plane) -> _Plane:
        smaller = (min(width, before[1]), min(height, before[0]))
        plane = cv2.resize(plane, smaller, interpolation=cv2.INTER_AREA) if smaller != before[::-1] else plane
        if smaller != (width, height):
            plane = cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC)
        return np.asarray(plane, np.float32).reshape(height, width)

    return _resampled(pixels, resized, opacity(pixels))


def _check_size(width: int, height: int) -> None:
    check_range("width", width, 1, MOST_SIDE)
    check_range("height", height, 1, MOST_SIDE)


def _moved(x: float, y: float) -> _Matrix:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _warped(pixels: Pixels, matrix: _Matrix, wide: int, high: int, *, transparent: bool = False) -> Pixels:
    """Return an image through a projective map.

    Args:
        pixels: (H, W, 3 or 4).
        matrix: (3, 3), from places in the result to places in `pixels`.
        wide: width of the result.
        high: height of the result.
        transparent: places outside of `pixels` are transparent; else they have the colour of the nearest pixel.
    """
    import cv2

    if max(*pixels.shape[:2], wide, high) > _MOST_WARPED:
        raise ConfigError(f"an image with a side of more than {_MOST_WARPED} pixels is too large: resize it first")
    if wide * high > max(_MOST_MADE, pixels.shape[0] * pixels.shape[1]):
        raise ConfigError(f"the result would be {wide}x{high}, which is too large: resize the image first")
    # OpenCV's places are those of the middles of pixels.
    centred = _moved(-0.5, -0.5) @ matrix @ _moved(0.5, 0.5)
    border = cv2.BORDER_CONSTANT if transparent else cv2.BORDER_REPLICATE
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP

    def warped(plane: _Plane) -> _Plane:
        made = cv2.warpPerspective(plane, centred, (wide, high), flags=flags, borderMode=border)
        return np.asarray(made, np.float32).reshape(high, wide)

    opaque = opacity(pixels)
    if opaque is None and transparent:
        opaque = np.ones(pixels.shape[:2], np.float32)
    return _resampled(pixels, warped, opaque)


def _resampled(pixels: Pixels, function: Callable[[_Plane], _Plane], opaque: _Plane | None) -> Pixels:
    """Return pixels whose planes of linear light went through a function, each weighted by the opacity.

    Args:
        pixels: (H, W, 3 or 4).
        function: from a plane (H, W) to one of another size.
        opaque: alpha from 0 to 1, (H, W); None for a result without alpha.
    """
    if opaque is None:
        planes = [encoded(function(linear_light(pixels[..., channel])), pixels) for channel in range(3)]
    else:
        made = function(opaque)
        divisor = np.maximum(made, np.float32(0.5 / white_of(pixels)))
        weighted = (function(linear_light(pixels[..., channel]) * opaque) for channel in range(3))
        planes = [*(encoded(plane / divisor, pixels) for plane in weighted), quantised(made, pixels)]
    return np.stack(planes, axis=-1)
