"""Content-addressed pictures: one store for a run, one view for a chain.

A handle is `img_` and the first 12 hex digits of the SHA-256 of mode, size and pixels, so equal pictures are one
picture and a trace can name a picture instead of carrying it. Masks are pictures of mode "L".

Memory is bounded: past `max_bytes` of decoded pixels the least recently used pictures live as PNG files only.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from agentfly.errors import ImageError, unknown_name

HANDLE = re.compile(r"img_[0-9a-f]{12}")
_MODES = ("L", "RGB", "RGBA")


def normalise(image: Image.Image) -> Image.Image:
    """The picture in one of the three modes that the store keeps: L (masks, grey), RGB, RGBA."""
    if image.mode in _MODES:
        return image
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.mode in ("1", "F"):
        return image.convert("L")
    return image.convert("RGBA" if "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBa") else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as 8 bits. Pillow clips at 255, which would turn a 16-bit picture white."""
    values = np.asarray(image.convert("I"))
    wide = image.mode != "I" or values.max(initial=0) > 255
    return Image.fromarray((values >> 8 if wide else values).clip(0, 255).astype(np.uint8))


def handle_of(image: Image.Image) -> str:
    """Handle of a picture: a hash of its mode, size and pixels. Metadata does not count."""
    image = normalise(image)
    digest = hashlib.sha256(f"{image.mode}:{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return f"img_{digest.hexdigest()[:12]}"


class ImageStore:
    """Pictures by content hash. Safe to use from several threads.

    Args:
        root: folder for the PNG files; every picture is written there when given. Without it, a temporary folder is
            made when memory runs over, and removed with the store.
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
        self._lock = threading.RLock()

    @property
    def root(self) -> Path | None:
        """Folder of a durable store, else None."""
        return self._root if self._durable else None

    def put(self, image: Image.Image) -> str:
        """Keep a picture and return its handle. Later changes to `image` do not touch the stored one."""
        image = normalise(image)
        handle = handle_of(image)
        with self._lock:
            if handle in self._memory:
                self._memory.move_to_end(handle)
                return handle
            if self._durable:
                self._write(handle, image)
            self._remember(handle, image.copy())
        return handle

    def get(self, handle: str) -> Image.Image:
        """A copy of the picture that the caller may change.

        Raises:
            ImageError: the store does not hold this handle.
        """
        with self._lock:
            kept = self._memory.get(handle)
            if kept is not None:
                self._memory.move_to_end(handle)
                return kept.copy()
            path = self.path(handle)
            if path is None or not path.exists():
                raise ImageError(f"no picture {handle!r} in this store")
            with Image.open(path) as file:
                image = file.copy()
            self._remember(handle, image)
            return image.copy()

    def path(self, handle: str) -> Path | None:
        """Where the PNG of a handle is, or would be; None while the store has no folder."""
        if not HANDLE.fullmatch(handle):
            raise ImageError(f"{handle!r} is not a picture handle (img_ and 12 hex digits)")
        return self._root / f"{handle}.png" if self._root is not None else None

    def __contains__(self, handle: object) -> bool:
        if not isinstance(handle, str) or not HANDLE.fullmatch(handle):
            return False
        with self._lock:
            path = self.path(handle)
            return handle in self._memory or (path is not None and path.exists())

    def _remember(self, handle: str, image: Image.Image) -> None:
        self._memory[handle] = image
        self._bytes += _size(image)
        while self._bytes > self._max_bytes and len(self._memory) > 1:
            old, dropped = self._memory.popitem(last=False)
            self._bytes -= _size(dropped)
            self._write(old, dropped)

    def _write(self, handle: str, image: Image.Image) -> None:
        if self._root is None:
            self._spill = tempfile.TemporaryDirectory(prefix="agentfly-images-")
            self._root = Path(self._spill.name)
        path = self._root / f"{handle}.png"
        if path.exists():
            return
        # A reader in another process must never see half a file.
        partial = path.with_suffix(f".{threading.get_ident()}.part")
        image.save(partial, "PNG", compress_level=1)
        partial.replace(path)


def _size(image: Image.Image) -> int:
    return image.width * image.height * len(image.getbands())


class ImageView:
    """What one chain can name: pictures as `img_1`, `img_2`, ... and masks as `mask_1`, ..., in the order they came.

    Short names cost a policy three tokens where a hash costs a dozen, and cannot be mistyped into another chain's
    picture. Handles of pictures that the view holds are accepted too.
    """

    def __init__(self, store: ImageStore) -> None:
        self.store = store
        self._handles: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def add(self, image: Image.Image, kind: str = "img") -> str:
        """Store a picture and return its name in this view; an equal picture keeps the name it has."""
        return self.add_handle(self.store.put(image), kind)

    def add_handle(self, handle: str, kind: str = "img") -> str:
        """Name a picture that the store already holds."""
        if handle not in self._names:
            count = sum(name.startswith(f"{kind}_") for name in self._handles)
            name = f"{kind}_{count + 1}"
            self._handles[name], self._names[handle] = handle, name
        return self._names[handle]

    def handle(self, name: str) -> str:
        """Handle of a name or of a handle that is in the view.

        Raises:
            ImageError: not in this view; the message lists what is.
        """
        if name in self._handles:
            return self._handles[name]
        if name in self._names:
            return name
        if not self._handles:
            raise ImageError(f"unknown image id {name!r}: there is no picture in this conversation")
        raise ImageError(unknown_name("image id", name, self._handles))

    def name(self, handle: str) -> str:
        """Name of a handle in this view."""
        return self._names[self.handle(handle)]

    def get(self, name: str) -> Image.Image:
        """A copy of the picture behind a name or handle."""
        return self.store.get(self.handle(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)
