"""Results of tools on disk, shared by chains, epochs and processes.

A result is one JSON file and a file for each image, named by the hash of all inputs. Files appear whole or not at all,
so processes need no locks. Past `max_bytes` the least recently used results are removed. The most recent ones are also
kept in memory.

A cache only saves work. A damaged result is a miss, and a disk that is full or read-only is reported once: calls go on
without it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from agentfly.errors import first_line
from agentfly.files import written_whole
from agentfly.images.pixels import normalise
from agentfly.images.store import image_hash
from agentfly.vision.cached_images import as_file, read_image

logger = logging.getLogger(__name__)

_LAYOUT = 1
# Seconds for which an unfinished file, or an image without its JSON file, is kept: a process may still be writing.
_GRACE = 600.0
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Entry:
    """A result: images, and JSON-able data."""

    images: tuple[Image.Image, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class CacheUse:
    """The use of caches in a context.

    Attributes:
        used: a result came from a cache, or from an equal call of the same moment.
    """

    used: bool = False


_USE: ContextVar[CacheUse | None] = ContextVar("agentfly_cache_use", default=None)


@contextmanager
def watch_cache() -> Iterator[CacheUse]:
    """Note the use of caches in this context, and in the threads and tasks that begin in it."""
    use = CacheUse()
    token = _USE.set(use)
    try:
        yield use
    finally:
        _USE.reset(token)


def note_use() -> None:
    """Note in the context of `watch_cache` that a result came from a cache."""
    use = _USE.get()
    if use is not None:
        use.used = True


@dataclass(frozen=True)
class CacheStats:
    """Counters of a cache in this process.

    Attributes:
        hits: results found.
        shared: calls that waited for an equal call of the same moment instead of working themselves.
        misses: results that had to be made.
        skipped: calls that are not cached, because they have no seed.
        stored, evicted: results written, and results removed to keep the bound.
    """

    hits: int = 0
    shared: int = 0
    misses: int = 0
    skipped: int = 0
    stored: int = 0
    evicted: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the cacheable calls that needed no work, 0 to 1; 0 before the first."""
        spared = self.hits + self.shared
        return spared / (spared + self.misses) if spared + self.misses else 0.0


def cache_key(
    engine: str, version: str, operation: str, parameters: Mapping[str, object], images: Sequence[Image.Image]
) -> str:
    """Return the hash of all inputs of a result.

    Args:
        engine: name of the engine.
        version: of the engine's weights and settings, where the name does not say it.
        operation: "detect", "inpaint" or "edit".
        parameters: of the call, the seed among them; JSON-able.
        images: of the call.
    """
    parts = [_LAYOUT, engine, version, operation, dict(parameters), [image_hash(image) for image in images]]
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    # A prompt that a policy wrote can hold half a surrogate pair.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ToolCache:
    """Results by key. Safe to use from several threads, and from several processes on one folder.

    Args:
        root: folder; made where it is missing.
        max_bytes: bytes on disk. Each process measures the folder after it has written a sixteenth of that, so it can
            be more for a moment.
        memory_bytes: bytes of decoded images kept in memory.

    Raises:
        OSError: the folder cannot be made, for another reason than a full or read-only disk.
    """

    def __init__(self, root: str | Path, *, max_bytes: int = 20 * 1024**3, memory_bytes: int = 128 * 1024**2) -> None:
        self.root = Path(root)
        self._reported = False
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            if fault.errno not in _UNWRITABLE:
                raise
            self._report(fault)
        self._max_bytes = max_bytes
        self._memory_bytes = memory_bytes
        self._memory: OrderedDict[str, Entry] = OrderedDict()
        self._held = 0
        self._lock = threading.RLock()
        self._written: int | None = None
        self._stats = CacheStats()

    @property
    def stats(self) -> CacheStats:
        """Counters of this process."""
        with self._lock:
            return self._stats

    def count(self, **more: int) -> None:
        """Add to counters of `stats`."""
        with self._lock:
            self._stats = replace(self._stats, **{name: getattr(self._stats, name) + by for name, by in more.items()})

    def get(self, key: str) -> Entry | None:
        """Return the result of a key, with images that the caller may change; None where there is none."""
        with self._lock:
            entry = self._memory.get(key)
            if entry is not None:
                self._memory.move_to_end(key)
        if entry is None:
            entry = self._read(key)
            if entry is None:
                return None
            self._remember(key, entry)
        try:
            os.utime(self._path(key))
        except OSError as fault:
            # Another process evicted it, or the disk is read-only: the result is right all the same.
            logger.debug("the use of result %s is not noted: %s", key, fault)
        return replace(entry, images=tuple(image.copy() for image in entry.images))

    def put(self, key: str, entry: Entry) -> None:
        """Keep a result in memory and, while the disk can be written, on disk.

        Args:
            key: see `cache_key`.
            entry: its images are stored in the modes of `normalise`, its data as JSON.
        """
        images = tuple(normalise(image).copy() for image in entry.images)
        self._remember(key, Entry(images, entry.data))
        try:
            size = self._store(key, images, entry.data)
            self.count(stored=1)
            with self._lock:
                due = self._written is None or self._written + size > self._max_bytes // 16
                self._written = 0 if due else (self._written or 0) + size
            if due:
                self.evict()
        except OSError as fault:
            self._report(fault)

    def drop(self, key: str, reason: object) -> None:
        """Remove a result that cannot be used; the reason goes to the log."""
        logger.warning("dropping a broken result from the tool cache: %s", reason)
        with self._lock:
            self._forget(key)
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as fault:
            self._report(fault)

    def evict(self) -> int:
        """Remove the least recently used results until nine tenths of the bound are kept, and return the bytes left."""
        results, total = self._scan()
        target = self._max_bytes if total <= self._max_bytes else int(self._max_bytes * 0.9)
        for _, key, size, paths in sorted(results):
            if total <= target:
                break
            for path in paths:
                path.unlink(missing_ok=True)
            with self._lock:
                self._forget(key)
            self.count(evicted=1)
            total -= size
        return total

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.json"

    def _store(self, key: str, images: Sequence[Image.Image], data: Mapping[str, Any]) -> int:
        """Write a result, and return its bytes."""
        self._path(key).parent.mkdir(parents=True, exist_ok=True)
        size, described = 0, []
        for index, image in enumerate(images):
            file = as_file(image)
            size += _write(self._path(key).with_name(f"{key}.{index}{file.suffix}"), file.content)
            described.append(file.described)
        meta = {"images": len(images), "files": described, "data": dict(data)}
        # Last: a reader that finds the JSON file finds all images.
        return size + _write(self._path(key), json.dumps(meta).encode())

    def _report(self, fault: OSError) -> None:
        if not self._reported:
            self._reported = True
            reason = fault.strerror or fault
            logger.warning("the tool cache %s cannot be written (%s): calls go on without it", self.root, reason)

    def _read(self, key: str) -> Entry | None:
        try:
            meta = json.loads(self._path(key).read_text(encoding="utf-8"))
            described = _described(meta)
            images = [read_image(self._path(key).with_suffix(f".{i}"), one) for i, one in enumerate(described)]
            return Entry(tuple(images), dict(meta["data"]))
        except FileNotFoundError:
            return None
        except Exception as fault:  # a file of a shared folder can hold anything, and decoders raise anything
            self.drop(key, first_line(fault))
            return None

    def _remember(self, key: str, entry: Entry) -> None:
        size = _pixels_of(entry)
        if size > self._memory_bytes:
            return
        with self._lock:
            self._forget(key)
            self._memory[key] = entry
            self._held += size
            while self._held > self._memory_bytes:
                self._forget(next(iter(self._memory)))

    def _forget(self, key: str) -> None:
        dropped = self._memory.pop(key, None)
        if dropped is not None:
            self._held -= _pixels_of(dropped)

    def _scan(self) -> tuple[list[tuple[float, str, int, list[Path]]], int]:
        """Return all results as (last used, key, bytes, files), and their bytes together; remove leftover files."""
        groups: dict[str, tuple[float | None, int, list[Path]]] = {}
        for path in self.root.glob("??/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix == ".part":
                _remove_if_old(path)
                continue
            key = path.name.partition(".")[0]
            used, size, paths = groups.get(key, (None, 0, []))
            used = status.st_mtime if path.suffix == ".json" else used
            # The JSON file goes first, so that no reader finds one without its images.
            paths = [path, *paths] if path.suffix == ".json" else [*paths, path]
            groups[key] = (used, size + status.st_size, paths)
        results = [(used, key, size, paths) for key, (used, size, paths) in groups.items() if used is not None]
        for used, _, paths in groups.values():
            if used is None:
                for path in paths:
                    _remove_if_old(path)
        return results, sum(size for _, _, size, _ in results)


def _described(meta: Mapping[str, Any]) -> Iterable[Mapping[str, object] | None]:
    """Return what `read_image` takes for each image of a result.

    Raises:
        LookupError, TypeError, ValueError: the JSON is that of no result.
    """
    if "files" not in meta:
        # Results of version 0.1 had PNG files alone, and at first no hashes.
        hashes = meta.get("hashes")
        if hashes is None:
            return (None for _ in range(meta["images"]))
        meta = {**meta, "files": [{"hash": one} for one in hashes]}
    if len(meta["files"]) != meta["images"]:
        raise ValueError(f"{meta['images']} images, and {len(meta['files'])} described")
    files: Iterable[Mapping[str, object]] = meta["files"]
    return files


def _remove_if_old(path: Path) -> None:
    try:
        if time.time() - path.stat().st_mtime > _GRACE:
            path.unlink()
    except FileNotFoundError:
        logger.debug("%s was removed by another process", path)


def _write(path: Path, data: bytes) -> int:
    """Write a file that appears whole or not at all, and return its size."""
    with written_whole(path) as partial:
        partial.write_bytes(data)
    return len(data)


def _pixels_of(entry: Entry) -> int:
    return sum(image.width * image.height * len(image.getbands()) for image in entry.images)
