"""Content-addressed images: one store for a run. `agentfly.images.view` has the names that a chain gives them.

A handle is `img_` and the first 12 hex digits of the SHA-256 of mode, size and pixels. So equal images are one image,
and a trajectory names an image instead of carrying it. Masks are images of mode "L".

Memory is bounded: past `max_bytes` of decoded pixels the least recently used images live as PNG files only. A file is
compared with its handle when it is read, so a damaged or exchanged one is never taken for the image.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from agentfly.errors import ImageError, first_line, short_path
from agentfly.files import sync_to_disk, written_whole
from agentfly.images.pixels import normalise
from agentfly.images.png import png_bytes

logger = logging.getLogger(__name__)

HANDLE = re.compile(r"img_[0-9a-f]{12}")
_REMEDY = "put a copy of it back, or run again what made it"


def image_hash(image: Image.Image) -> str:
    """Return the SHA-256 of mode, size and pixels, in hex, without the metadata."""
    return _hash(normalise(image))


def _hash(image: Image.Image, pixels: bytes | None = None) -> str:
    digest = hashlib.sha256(f"{image.mode}:{image.width}x{image.height}:".encode())
    digest.update(image.tobytes() if pixels is None else pixels)
    return digest.hexdigest()


def handle_of(image: Image.Image) -> str:
    """Return the handle of an image, which is the beginning of its hash."""
    return _handle(image_hash(image))


def _handle(digest: str) -> str:
    return f"img_{digest[:12]}"


class ImageStore:
    """Images by content hash. Safe to use from several threads.

    Args:
        root: folder for the PNG files; with it, every image is written there. Without it, a temporary folder is made
            when memory is full, and removed with the store.
        max_bytes: decoded pixels kept in memory, in bytes.
    """

    def __init__(self, root: str | Path | None = None, *, max_bytes: int = 256 * 1024 * 1024) -> None:
        self._root = Path(root) if root is not None else None
        if self._root is not None:
            self._root.mkdir(parents=True, exist_ok=True)
        self._durable = self._root is not None
        self._spill: tempfile.TemporaryDirectory[str] | None = None
        self._max_bytes = max_bytes
        self._bytes = 0
        self._memory: OrderedDict[str, Image.Image] = OrderedDict()
        # On their way out of memory, until their file is there.
        self._leaving: dict[str, Image.Image] = {}
        self._lock = threading.RLock()
        self._others: list[ImageStore] = []
        # Handles whose files this store has written or compared, and those of them that may not be on the disk yet.
        self._sound: set[str] = set()
        self._unsynced: set[str] = set()
        self._syncing = threading.Lock()

    @property
    def root(self) -> Path | None:
        """Folder of a durable store, else None."""
        return self._root if self._durable else None

    @property
    def memory_bytes(self) -> int:
        """Bytes of the decoded pixels in memory."""
        with self._lock:
            return self._bytes

    def put(self, image: Image.Image) -> str:
        """Keep an image and return its handle. Later changes to `image` do not touch the stored one.

        A file of an earlier run that is damaged is written anew.
        """
        image = normalise(image)
        pixels = image.tobytes()
        handle = _handle(_hash(image, pixels))
        with self._lock:
            if handle in self._memory:
                self._memory.move_to_end(handle)
                return handle
        kept = image.copy()
        # The handle is of the pixels. A PNG would keep some of the rest, and a reader would apply it.
        kept.info = {}
        self._keep(handle, kept, pixels)
        return handle

    def _keep(self, handle: str, image: Image.Image, pixels: bytes | None = None) -> None:
        # Encoding takes far longer than all else here: it must not hold up other chains.
        if self._durable:
            self._write(handle, image, pixels)
        self._remember(handle, image)

    def sync(self) -> None:
        """Wait until the files of all images that were put are on the disk, to survive a power cut.

        A line that names images is written after this. Does nothing without a folder.

        Raises:
            OSError: the disk is full or broken.
        """
        # One at a time: a caller must not return while another one still syncs its images.
        with self._syncing:
            with self._lock:
                due = sorted(self._unsynced)
            if self._root is None or not due:
                return
            for handle in due:
                sync_to_disk(self._root / f"{handle}.png")
            sync_to_disk(self._root)
            with self._lock:
                self._unsynced.difference_update(due)

    def look_in(self, other: ImageStore) -> None:
        """Look in another store, too, for images that this one lacks."""
        if other is not self and other not in self._others:
            self._others.append(other)

    def get(self, handle: str) -> Image.Image:
        """Return a copy of an image, which the caller may change; see `shared`."""
        return self.shared(handle).copy()

    def shared(self, handle: str) -> Image.Image:
        """Return an image as it is kept, to be read and never changed.

        Raises:
            ImageError: the store does not hold this handle, or its file is damaged or is another image.
        """
        with self._lock:
            kept = self._memory.get(handle) or self._leaving.get(handle)
            if kept is not None:
                if handle in self._memory:
                    self._memory.move_to_end(handle)
                return kept
        fault = ImageError(f"no image {handle!r} in this store")
        try:
            if (image := self._read(handle)) is not None:
                with self._lock:
                    self._sound.add(handle)
                self._remember(handle, image)
                return image
        except ImageError as found:
            fault = found
        for other in self._others:
            if handle in other:
                try:
                    return other.shared(handle)
                except ImageError as found:
                    fault = found
        raise fault

    def discard(self, handle: str) -> None:
        """Forget an image and remove its file."""
        with self._lock:
            dropped = self._memory.pop(handle, None)
            self._bytes -= 0 if dropped is None else _size(dropped)
            self._sound.discard(handle)
            self._unsynced.discard(handle)
            path = self.path(handle)
        if path is not None:
            path.unlink(missing_ok=True)

    def copy_from(self, other: ImageStore, handles: Iterable[str]) -> None:
        """Keep images of another store. Those that it cannot give are left out, and that is logged."""
        for handle in handles if other is not self else ():
            with self._lock:
                known = handle in self._memory or handle in self._sound
            if not known and handle in other:
                try:
                    # The other store has its own copy, and has made or compared the handle.
                    self._keep(handle, other.get(handle))
                except ImageError as fault:
                    logger.warning("an image is not kept: %s", fault)

    def path(self, handle: str) -> Path | None:
        """Return the path of a handle's PNG, written or not; None while the store has no folder."""
        if not HANDLE.fullmatch(handle):
            raise ImageError(f"{handle!r} is not an image handle (img_ and 12 hex digits)")
        return self._root / f"{handle}.png" if self._root is not None else None

    def __contains__(self, handle: object) -> bool:
        if not isinstance(handle, str) or not HANDLE.fullmatch(handle):
            return False
        with self._lock:
            path = self.path(handle)
            here = handle in self._memory or handle in self._leaving or (path is not None and path.exists())
        return here or any(handle in other for other in self._others)

    def _remember(self, handle: str, image: Image.Image) -> None:
        with self._lock:
            if handle not in self._memory:
                self._memory[handle] = image
                self._bytes += _size(image)
            leaving: dict[str, Image.Image] = {}
            while self._bytes > self._max_bytes and len(self._memory) > 1:
                old, dropped = self._memory.popitem(last=False)
                self._bytes -= _size(dropped)
                leaving[old] = dropped
            self._leaving.update(leaving)
        for old, dropped in leaving.items():
            self._write(old, dropped)
            with self._lock:
                self._leaving.pop(old, None)

    def _write(self, handle: str, image: Image.Image, pixels: bytes | None = None) -> None:
        with self._lock:
            if self._root is None:
                self._spill = tempfile.TemporaryDirectory(prefix="agentfly-images-")
                self._root = Path(self._spill.name)
            path = self._root / f"{handle}.png"
        if not self._is_sound(handle, path):
            # A reader in another thread or process must never see half a file.
            with written_whole(path) as partial:
                partial.write_bytes(png_bytes(image, pixels))
        with self._lock:
            if self._durable and handle not in self._sound:
                self._unsynced.add(handle)
            self._sound.add(handle)

    def _is_sound(self, handle: str, path: Path) -> bool:
        """Return True if the file of a handle is there and is its image. It is read once."""
        if not path.exists():
            with self._lock:
                self._sound.discard(handle)
            return False
        if handle in self._sound:
            return True
        try:
            return self._read(handle) is not None
        except ImageError as fault:
            logger.warning("%s; it is written anew", str(fault).removesuffix(f"; {_REMEDY}"))
            return False

    def _read(self, handle: str) -> Image.Image | None:
        """Return the image of a file, compared with its handle; None where there is no file.

        Raises:
            ImageError: the file cannot be read, is damaged, or is another image.
        """
        path = self.path(handle)
        # A pipe or a device would never end.
        if path is None or not path.is_file():
            return None
        try:
            with Image.open(path, formats=("PNG",)) as file:
                image = file.copy()
        except Exception as fault:  # decoders raise anything on broken bytes
            system = fault.strerror if isinstance(fault, OSError) else None
            reason = f"cannot be read: {system}" if system else f"is damaged ({first_line(fault)})"
            raise ImageError(f"the image file {short_path(str(path))!r} {reason}; {_REMEDY}") from fault
        if not _hash(image).startswith(handle.removeprefix("img_")):
            shown = short_path(str(path))
            raise ImageError(f"the image file {shown!r} holds another image than its name says; {_REMEDY}")
        image.info = {}
        return image


def _size(image: Image.Image) -> int:
    return image.width * image.height * len(image.getbands())
