"""Thumbnails, made once when they are first looked at, in the folder that the viewer keeps beside a run.

On a full disk, or one that has become read-only, each is made when it is asked for.
"""

from __future__ import annotations

import errno
import hashlib
import io
import threading
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from agentfly.errors import ImageError, is_disk_full
from agentfly.files import written_whole
from agentfly.images import ImageStore, load_image
from agentfly.images.pixels import on_white

SIDE = 160  # pixels at most, in width and height
MOST_BYTES = 8000
_QUALITIES = (80, 60, 40, 20)
# A page asks for dozens at once, and an image takes far more memory while it is decoded.
_DECODING = threading.BoundedSemaphore(2)
# Two requests for one image take turns, so that it is decoded once; many images share these locks.
_TURNS = tuple(threading.Lock() for _ in range(16))


def thumbnail_bytes(image: Image.Image, side: int = SIDE, most: int = MOST_BYTES) -> bytes:
    """Return an image as WebP, at most `side` pixels wide and high, and of at most `most` bytes."""
    small = image.convert("RGB") if image.mode == "L" else on_white(image)
    small.thumbnail((side, side))
    while True:
        for quality in _QUALITIES:
            file = io.BytesIO()
            small.save(file, "WEBP", quality=quality, method=4)
            if file.tell() <= most:
                return file.getvalue()
        # Noise: no quality makes it small enough.
        small = small.resize((max(1, small.width // 2), max(1, small.height // 2)))


class Thumbnails:
    """The thumbnails of one run.

    Args:
        folder: made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, handle: str, images: ImageStore) -> bytes:
        """Return an image as WebP.

        Raises:
            ImageError: there is no such image.
            OSError: the run was removed, or its folder cannot be used.
        """
        file = self._folder / f"{handle}.webp"
        # A path of the store is that of a sound handle.
        if images.path(handle) is None and not file.is_file():
            raise ImageError(f"the image {handle} was not kept")
        return self._made(file, lambda: thumbnail_bytes(images.get(handle)))

    def of_data(self, data: bytes, side: int, most: int) -> bytes:
        """Return an image that no store has as WebP; see `thumbnail_bytes`.

        Raises:
            ImageError: it is no image, or too large.
            OSError: see `get`.
        """
        file = self._folder / f"data_{hashlib.sha256(data).hexdigest()[:20]}_{side}.webp"
        return self._made(file, lambda: thumbnail_bytes(load_image(data), side, most))

    def _made(self, file: Path, make: Callable[[], bytes]) -> bytes:
        if file.is_file():
            return file.read_bytes()
        with _TURNS[hash(file) % len(_TURNS)], _DECODING:
            if file.is_file():  # another request has made it meanwhile
                return file.read_bytes()
            data = make()
            try:
                self._write(file, data)
            except OSError as fault:
                if not is_disk_full(fault) and fault.errno != errno.EROFS:
                    raise
            return data

    def _write(self, file: Path, data: bytes) -> None:
        for folder in (self._folder.parent, self._folder):  # no further: a run that was removed stays so
            folder.mkdir(exist_ok=True)
        with written_whole(file) as partial:
            partial.write_bytes(data)
