"""Write files so that they survive a crash: files are complete or absent, and a line is on disk before it counts."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentfly.errors import ConfigError

logger = logging.getLogger(__name__)


class LineFile:
    """A file of JSON lines that one process at a time appends to.

    A line is written in one append and synced. A process that is killed at any moment tears at most the last line.

    Args:
        path: made where it is missing; its folder is there.
        owner: what the file belongs to, for messages.

    Raises:
        ConfigError: another process writes to it.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock(self._file, owner)
        except ConfigError:
            self.close()
            raise

    def mend(self) -> None:
        """Cut off a torn last line."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            logger.warning("%s: the last line was torn; what it was about is done again", self.path)
            os.ftruncate(self._file, whole)

    def append(self, line: str) -> None:
        """Write a line; when this returns, it is on disk. After `close` it does nothing."""
        # A sampled text can hold half a surrogate pair, which UTF-8 cannot carry.
        data = f"{line}\n".encode("utf-8", "replace")
        with self._lock:
            if self._file < 0:
                return
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


def _lock(file: int, owner: str) -> None:
    """Take a file's lock, which goes with the process, however that ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as fault:
        raise ConfigError(f"another process writes to {owner}: wait for it, or use another") from fault
    except OSError as fault:
        logger.warning(
            "this file system has no locks (%s): take care that one process alone writes to %s", fault, owner
        )


@contextmanager
def held(path: Path, owner: str) -> Iterator[None]:
    """Hold the lock of a file, which is made where it is missing.

    Args:
        path: its folder is there.
        owner: what the lock is for, for messages.

    Raises:
        ConfigError: another process holds it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(file, owner)
        yield
    finally:
        os.close(file)


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Numbers and parsed values of the lines of a JSONL file; a last line without its end is left out.

    Raises:
        ConfigError: a line is not JSON.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, json.loads(line)
            except ValueError as fault:
                raise ConfigError(f"{path}, line {number} is damaged ({fault}): remove the line") from fault


def check_replaceable(folder: Path, marker: str, kind: str) -> None:
    """What may be replaced by something new: nothing, an empty folder, or one that holds a marker.

    Args:
        folder: that is to be written.
        marker: name of a file that every folder of its kind has.
        kind: what it is, for the message: "policy folder".

    Raises:
        ConfigError: it is something else, which nobody asked to lose.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / marker).is_file() or not any(folder.iterdir()))):
        raise ConfigError(f"{folder} is there and is no {kind}: give another --out, or remove it")


def write_text(path: Path, text: str) -> Path:
    """Write a file so that nobody ever sees half of it; returns its path."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    # A sampled text can hold half a surrogate pair, which UTF-8 cannot carry.
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)
    return path
