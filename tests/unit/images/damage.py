"""What can happen to an image file between two runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>not found</html>"),
    "flipped": _flipped,
    "exchanged": lambda path: Image.new("RGB", (8, 6), (77, 77, 77)).save(path),
    "of another mode": lambda path: Image.open(path).convert("RGBA").save(path),
    "a JPEG": lambda path: Image.open(path).convert("RGB").save(path, "JPEG"),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: _replaced(path, Path.mkdir),
    "a pipe": lambda path: _replaced(path, os.mkfifo),
}
