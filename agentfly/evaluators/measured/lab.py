"""Blurred images in CIE Lab, a strip of rows at a time.

The arrays of a strip stay in the processor's cache and are used again. Those of whole images would be given back to
the system and zeroed by it for each sample, which takes longer than the blur.
"""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray

from agentfly.evaluators.measured.regions import Region, grown, relative, size_of, strips

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
STRIP = 32768  # pixels


def reach(blur: float) -> int:
    """Return the pixels that OpenCV's Gaussian kernel for float images reaches to each side, rounded up."""
    return math.ceil(4 * blur) + 1


class LabReader:
    """Reads strips of images of one size. Not for several threads at once.

    Args:
        blur: standard deviation in pixels of the Gaussian that is laid over the images.
        region: holds all strips that are read.
        shape: of the images, (H, W, 3).
    """

    def __init__(self, blur: float, region: Region, shape: tuple[int, ...]) -> None:
        self.blur = blur
        rows, columns = size_of(grown(strips(region, STRIP)[0], 2 * reach(blur), shape))
        buffer = (rows, columns, 3)
        self._scaled, self._blurred = np.empty(buffer, np.float32), np.empty(buffer, np.float32)

    def read(self, pixels: Pixels, strip: Region, out: Floats | None = None) -> Floats:
        """Return a strip in Lab; the blur takes in the pixels around it.

        Args:
            pixels: the image (H, W, 3), RGB.
            strip: one of the `strips` of the region, or a part of it.
            out: (rows, columns, 3), takes the strip; a new array when None.
        """
        import cv2

        around = grown(strip, reach(self.blur), pixels.shape)
        rows, columns = size_of(around)
        scaled, blurred = self._scaled[:rows, :columns], self._blurred[:rows, :columns]
        np.divide(pixels[around], np.float32(255.0), out=scaled, dtype=np.float32)
        cv2.GaussianBlur(scaled, (0, 0), self.blur, dst=blurred)
        lab = cv2.cvtColor(blurred[relative(strip, around)], cv2.COLOR_RGB2LAB, dst=out)
        return np.asarray(lab, dtype=np.float32)


class LabMemory:
    """The images that were wanted in Lab as a whole last, by their pixels. Safe to use from several threads.

    The results of one task are compared with one source: those of a group of chains, or of the turns of a chain.

    Args:
        max_bytes: of pixels and Lab, 15 for each pixel.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._kept: list[tuple[bytes, tuple[int, ...], float, Floats]] = []  # used last, last
        self._lock = threading.Lock()

    def whole(self, pixels: Pixels, reader: LabReader) -> Floats | None:
        """Return an image in Lab; None for one that is too large to be kept.

        Args:
            pixels: the image (H, W, 3), RGB.
            reader: for the region of the whole image.
        """
        if 5 * pixels.nbytes > self._max_bytes:
            return None
        data, shape = pixels.tobytes(), pixels.shape
        with self._lock:
            # Comparing is quicker than hashing: other images differ in their first bytes.
            for number in reversed(range(len(self._kept))):
                if self._kept[number][1:3] == (shape, reader.blur) and self._kept[number][0] == data:
                    self._kept.append(self._kept.pop(number))
                    return self._kept[-1][3]
        lab = np.empty(shape, np.float32)
        for strip in strips((slice(0, shape[0]), slice(0, shape[1])), STRIP):
            reader.read(pixels, strip, lab[strip])
        with self._lock:
            self._kept.append((data, shape, reader.blur, lab))
            while sum(5 * len(kept[0]) for kept in self._kept) > self._max_bytes:
                del self._kept[0]
        return lab
