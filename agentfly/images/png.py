"""PNG files: how they are written here, and how those are read whose pixels are good and whose metadata is not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

FAST_PNG: Mapping[str, int] = {"compress_level": 1, "compress_type": zlib.Z_RLE}
"""Options of Pillow's writer. Of zlib's strategies this one takes two thirds of the time for photos, and makes the
smaller files."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The chunks beside the pixels that change how they look, with the bytes that each may have when it is inflated.
_KEPT = {b"tRNS": 1024, b"iCCP": 1024 * 1024, b"eXIf": 1024 * 1024}


def without_metadata(data: bytes) -> bytes | None:
    """Return a PNG file with nothing but its pixels, transparency, colour profile and orientation.

    Pillow refuses a file for one wrong checksum beside the pixels, or a text that inflates past a megabyte. Its switch
    for broken files is one for the whole process, and would also let files pass that are cut off.

    Returns:
        The file, or None if there is nothing to leave out.
    """
    view, place, left_out = memoryview(data), len(_SIGNATURE), False
    kept: list[bytes | memoryview] = [_SIGNATURE]
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 12 + length
        if end > len(data):
            break
        name = data[place + 4 : place + 8]
        # A small first letter marks a chunk that decoders may skip.
        if name[:1].isupper() or _is_good(name, view[place + 8 : end - 4], data[end - 4 : end]):
            kept.append(view[place:end])
        else:
            left_out = True
        place = end
        if name == b"IEND":
            break
    return b"".join([*kept, view[place:]]) if left_out else None


def _is_good(name: bytes, body: memoryview, checksum: bytes) -> bool:
    """Return True for a chunk that is kept: its checksum is right, and it is not larger than such a chunk can be."""
    if name not in _KEPT or zlib.crc32(body, zlib.crc32(name)).to_bytes(4, "big") != checksum:
        return False
    if name != b"iCCP":
        return len(body) <= _KEPT[name]
    label, _, packed = bytes(body).partition(b"\0")
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(packed[1:], _KEPT[name])
    except zlib.error:
        return False
    return bool(label) and packed[:1] == b"\0" and not inflate.unconsumed_tail


def png_size(path: Path) -> tuple[int, int] | None:
    """Return width and height of a PNG file in pixels, from its first bytes; None for a file that is none."""
    try:
        if not path.is_file():  # a pipe would never end
            return None
        with path.open("rb") as file:
            head = file.read(24)
    except OSError:
        return None
    if len(head) < 24 or not head.startswith(_SIGNATURE) or head[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return width, height
