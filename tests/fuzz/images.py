"""Hostile files and sources of images.

`FILES` and `SOURCES` make one of a kind from a random source; `GROWING` makes a text of a given length that a careless
check needs far more than proportional time for. Every source is either loaded or refused with an `ImageError`.
"""

from __future__ import annotations

import base64
import contextlib
import struct
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from random import Random
from typing import Any

from PIL import Image

from tests.fuzz.texts import WORDS, Make, mutated, value

KINDS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr")
SIZES = ((24, 18), (1, 1), (1, 90), (64, 64), (5, 3))

_SPACES = " \t\n\r\v\f\x00\x85\u00a0\u2028\u3000"
_LABELS = ("xn--", "xn--a", "xn--0", "a", "a" * 70, "-", "_", "", "\u00df", "\u3002", "\ud800", "127.1", "0x7f.1", "é")
_PORTS = ("", ":", ":0", ":80", ":99999", ":-1", ":abc", ":\ud800", ":١")
_SCHEMES = ("http://", "HTTPS://", "http:/", "http:", "https:///", "http://a@", "http://a:b@", "http://[", "file:")
_TAILS = ("", "/", "/a.png", "/\x00", "/%", "/%zz", "?\ud800", "#\udfff", "/ \n", "\\", "/..", "]/", "/\u202e")
_HEADERS = (
    "data:",
    "DATA:image/png",
    "data:image/png;base64",
    "data:;base64",
    "data:image/png;base64 ",
    "data:,\ud800",
)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return an image as the bytes of a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, body: bytes, *, right: bool = True) -> bytes:
    """Return a chunk of a PNG file.

    Args:
        name: of four letters.
        body: of any length.
        right: whether its checksum is.
    """
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ (not right))


def with_chunks(png: bytes, *chunks: bytes, before: bytes = b"IDAT") -> bytes:
    """Return a PNG file with more chunks in front of the first one that is named `before`."""
    place = png.index(before) - 4
    return png[:place] + b"".join(chunks) + png[place:]


def image(random: Random) -> Image.Image:
    """Return an image of any mode and shape, with odd things beside its pixels."""
    made = Image.linear_gradient("L").resize(random.choice(SIZES)).convert(random.choice(("L", "RGB", "RGBA")))
    with contextlib.suppress(ValueError):
        made = made.convert(random.choice(MODES))
    beside: list[dict[str | tuple[int, int], Any]] = [{}, {"transparency": 0}, {"icc_profile": b"x"}, {"dpi": (0, 0)}]
    made.info = random.choice(beside)
    return made


def _whole(random: Random) -> bytes:
    """Return an image as a file of any kind."""
    with contextlib.suppress(Exception):  # not every format takes every mode
        made = image(random)
        return encoded(made, random.choice(KINDS), **{str(name): item for name, item in made.info.items()})
    return b"\x89PNG\r\n\x1a\n"


def _header(random: Random) -> bytes:
    """Return an image file with changed bytes at its beginning, where sizes and kinds stand."""
    data = bytearray(_whole(random))
    for _ in range(random.randrange(1, 6)):
        data[random.randrange(min(len(data), 64))] = random.choice((0, 1, 127, 255, random.randrange(256)))
    return bytes(data)


def _chunks(random: Random) -> bytes:
    """Return a PNG file with chunks that lie, repeat or inflate."""
    names = (
        b"tEXt",
        b"zTXt",
        b"iTXt",
        b"iCCP",
        b"eXIf",
        b"tRNS",
        b"gAMA",
        b"pHYs",
        b"acTL",
        b"fcTL",
        b"PLTE",
        b"IHDR",
        b"IDAT",
        b"xxXx",
    )
    bodies = (
        b"",
        b"\0",
        b"transparency\0no",
        b"icc_profile\0no",
        b"exif\0no",
        b"k\0\0" + zlib.compress(bytes(3_000_000)),
        zlib.compress(bytes(10)),
        b"k\0\7\0",
        random.randbytes(random.randrange(40)),
    )
    chunks = (
        png_chunk(random.choice(names), random.choice(bodies), right=random.random() < 0.7)
        for _ in range(random.randrange(1, 4))
    )
    mode = random.choice(("1", "L", "RGB", "P", "RGBA", "LA"))
    png = encoded(Image.new(mode, (3, 2)))
    return with_chunks(png, *chunks, before=random.choice((b"IDAT", b"IEND")))


def _promising(random: Random) -> bytes:
    """Return a PNG whose header promises a size that its data does not have."""
    sizes = (0, 1, 7, 65_535, 2**31 - 1, 2**32 - 1)
    depth, colour = random.choice((1, 8, 16, 99)), random.choice((0, 2, 3, 6, 9))
    header = struct.pack(">IIBBBBB", random.choice(sizes), random.choice(sizes), depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, content) for name, content in chunks)


FILES: Mapping[str, Make[bytes]] = {
    "whole": _whole,
    "headers": _header,
    "cut off": lambda random: (data := _whole(random))[: random.randrange(len(data))],
    "changed": lambda random: mutated(random, _whole(random)),
    "chunks": _chunks,
    "promises": _promising,
    "other kinds": lambda random: (
        random.choice((b"", b"<html>", b"II*\0", b"RIFF", b"%PDF")) + random.randbytes(random.randrange(90))
    ),
}


def file(random: Random) -> bytes:
    """Return bytes that may be an image file."""
    return random.choice(tuple(FILES.values()))(random)


def _address(random: Random) -> str:
    labels = ".".join(random.choice(_LABELS) for _ in range(random.randrange(1, 4)))
    return random.choice(_SCHEMES) + labels + random.choice(_PORTS) + random.choice(_TAILS)


def _base64(random: Random) -> str:
    encode = random.choice((base64.b64encode, base64.urlsafe_b64encode))
    text = list(encode(file(random)).decode())
    if random.random() < 0.4:
        return "".join(text)
    for _ in range(random.randrange(5)):
        text.insert(random.randrange(len(text) + 1), random.choice((*_SPACES, "=", "-", "_", "é", "\ud800", "%")))
    return "".join(text[: random.randrange(len(text) + 1)])


def _data_uri(random: Random) -> str:
    header = random.choice(_HEADERS)
    return f"{header}{random.choice(('', ','))}{_base64(random)}{random.choice(('', '%', '%41', chr(0xD800)))}"


def _words(random: Random) -> str:
    letters = (chr(random.choice((32, 47, 58, 61, 0xD800, random.randrange(0x3000)))) for _ in range(60))
    return random.choice(("".join(letters)[random.randrange(60) :], random.choice(WORDS) * random.choice((1, 5000))))


GROWING: Mapping[str, Callable[[int], str]] = {
    "spaces between digits": lambda n: "A" + " " * n + "!",
    "spaces": lambda n: " " * n + "\x00",
    "lines": lambda n: "QUJD\n" * (n // 5) + "!",
    "digits": lambda n: "A" * n + "!",
    "padding": lambda n: "A" + "=" * n,
    "padding and spaces": lambda n: "A" + "= " * (n // 2),
    "scheme": lambda n: "a+" * (n // 2),
    "scheme and colons": lambda n: "a:" * (n // 2),
    "data URI of spaces": lambda n: "data:image/png;base64,A" + " " * n + "!",
    "data URI of escapes": lambda n: "data:image/png;base64," + "%41" * (n // 3) + "!",
    "data URI with a long type": lambda n: "data:" + " ;" * (n // 2) + ",A",
    "text": lambda n: "data:," + "%0A" * (n // 3),
}

SOURCES: Mapping[str, Make[object]] = {
    "files": file,
    "addresses": _address,
    "base64": _base64,
    "data URIs": _data_uri,
    "words": _words,
    "long texts": lambda random: random.choice(tuple(GROWING.values()))(random.choice((10, 5000, 40_000))),
    "rows": lambda random: {"bytes": random.choice((None, b"", file(random))), "path": value(random)},
    "paths": lambda random: random.choice(
        ("/proc/kmsg", "/dev/zero", "/proc/self/mem", "file:///etc/passwd", ".", "a" * 4000, "\0")
    ),
    "images": image,
    "values": value,
}


def source(random: Random) -> object:
    """Return what may be a source of an image."""
    return random.choice(tuple(SOURCES.values()))(random)
