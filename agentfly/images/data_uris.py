"""Data URIs of images that are sent again and again: a conversation repeats its images in every request."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from agentfly.images.encoding import data_uri
from agentfly.images.pixels import without_transparency
from agentfly.images.store import HANDLE

_MOST_THREADS = 8


class DataUris:
    """Data URIs (PNG) by image handle, each made once; past `max_bytes` the least recently used are made anew.

    Usable from several event loops and threads. Names that are no hash of the content are never kept.

    Args:
        max_bytes: of all texts.
    """

    def __init__(self, max_bytes: int = 128 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, str] = OrderedDict()
        # Chains of a group begin with the same image at the same moment.
        self._coming: dict[str, Future[str]] = {}
        self._lock = threading.Lock()
        # More threads than cores only wait for each other.
        self._threads = ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1), "data-uri")

    async def of(self, handles: Iterable[str], load: Callable[[str], Image.Image]) -> dict[str, str]:
        """Return the data URI of each image, encoded off the event loop unless it is kept.

        Args:
            handles: of the images.
            load: gives the image of a handle.

        Raises:
            Exception: what `load` raises; the next call tries again.
        """
        # All are begun before one is waited for.
        found = {handle: self._find(handle, load) for handle in dict.fromkeys(handles)}
        return {handle: uri if isinstance(uri, str) else await _result(uri) for handle, uri in found.items()}

    def _find(self, handle: str, load: Callable[[str], Image.Image]) -> str | Future[str]:
        if not HANDLE.fullmatch(handle):
            return self._threads.submit(_encode, handle, load)
        with self._lock:
            if (kept := self._kept.get(handle)) is not None:
                self._kept.move_to_end(handle)
                return kept
            if (coming := self._coming.get(handle)) is None:
                coming = self._coming[handle] = self._threads.submit(self._make, handle, load)
            return coming

    def _make(self, handle: str, load: Callable[[str], Image.Image]) -> str:
        try:
            uri = _encode(handle, load)
            with self._lock:
                self._kept[handle] = uri
                self._bytes += len(uri)
                while self._bytes > self._max_bytes:
                    _, dropped = self._kept.popitem(last=False)
                    self._bytes -= len(dropped)
        finally:
            with self._lock:
                del self._coming[handle]
        return uri


def _encode(handle: str, load: Callable[[str], Image.Image]) -> str:
    return data_uri(without_transparency(load(handle)))


async def _result(uri: Future[str]) -> str:
    # Somebody who gives up must not take it from the others.
    return await asyncio.shield(asyncio.wrap_future(uri))
