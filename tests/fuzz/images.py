"""Hostile sources of images, for the tests of loading and for a fuzz run.

`FAMILIES` makes one source of a kind from a random generator; `GROWING` makes a text of a given length that a careless
check needs far more than proportional time for. Every source is either loaded or refused with an `ImageError`.
"""

from __future__ import annotations

import base64
import contextlib
import random
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO

from PIL import Image

KINDS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")

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


def _image(pick: random.Random) -> bytes:
    kind = pick.choice(KINDS)
    mode = pick.choice(("L", "RGB") if kind in ("JPEG", "WEBP") else ("L", "RGB", "P"))
    size = pick.choice(((1, 1), (5, 3), (16, 16), (1, 40)))
    return encoded(Image.new(mode, size, pick.randrange(256)), kind)


def _address(pick: random.Random) -> str:
    labels = ".".join(pick.choice(_LABELS) for _ in range(pick.randrange(1, 4)))
    return pick.choice(_SCHEMES) + labels + pick.choice(_PORTS) + pick.choice(_TAILS)


def _base64(pick: random.Random) -> str:
    text = list(base64.b64encode(_image(pick)).decode())
    for _ in range(pick.randrange(5)):
        text.insert(pick.randrange(len(text) + 1), pick.choice((*_SPACES, "=", "-", "_", "é", "\ud800", "%")))
    return "".join(text[: pick.randrange(len(text) + 1)])


def _data_uri(pick: random.Random) -> str:
    header = pick.choice(_HEADERS)
    return f"{header}{pick.choice(('', ','))}{_base64(pick)}{pick.choice(('', '%', '%41', chr(0xD800)))}"


def _header(pick: random.Random) -> bytes:
    """Return an image file with changed bytes at its beginning, where sizes and kinds stand."""
    data = bytearray(_image(pick))
    for _ in range(pick.randrange(1, 6)):
        data[pick.randrange(min(len(data), 64))] = pick.choice((0, 1, 127, 255, pick.randrange(256)))
    return bytes(data)


def _cut_off(pick: random.Random) -> bytes:
    data = _image(pick)
    return data[: pick.randrange(len(data))]


def _changed(pick: random.Random) -> bytes:
    data = bytearray(_image(pick))
    for _ in range(pick.randrange(1, 9)):
        data[pick.randrange(len(data))] = pick.randrange(256)
    return bytes(data)


def _chunks(pick: random.Random) -> bytes:
    """Return a PNG file with chunks that lie, repeat or inflate."""
    names = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"gAMA", b"pHYs", b"acTL", b"fcTL", b"PLTE", b"xxXx")
    bodies = (
        b"",
        b"\0",
        b"transparency\0no",
        b"icc_profile\0no",
        b"exif\0no",
        b"k\0\0" + zlib.compress(bytes(2_000_000)),
        b"k\0\7\0",
        pick.randbytes(pick.randrange(40)),
    )
    chunks = (
        png_chunk(pick.choice(names), pick.choice(bodies), right=pick.random() < 0.7)
        for _ in range(pick.randrange(1, 4))
    )
    mode = pick.choice(("1", "L", "RGB", "P", "RGBA", "LA"))
    png = encoded(Image.new(mode, (3, 2)))
    return with_chunks(png, *chunks, before=pick.choice((b"IDAT", b"IEND")))


def _words(pick: random.Random) -> str:
    return "".join(
        chr(pick.choice((32, 47, 58, 61, 0xD800, pick.randrange(0x3000)))) for _ in range(pick.randrange(60))
    )


FAMILIES: Mapping[str, Callable[[random.Random], str | bytes]] = {
    "addresses": _address,
    "base64": _base64,
    "data URIs": _data_uri,
    "headers": _header,
    "cut off": _cut_off,
    "changed": _changed,
    "chunks": _chunks,
    "words": _words,
}

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


def growth(work: Callable[[str], object], make: Callable[[int], str], length: int = 20_000, times: int = 16) -> float:
    """Return how many times longer `work` takes on a text that is `times` as long, as a share of `times`.

    It is about 1 for work in linear time, and about `times` for work in quadratic time.

    Args:
        work: takes a text; what it raises counts as its end.
        make: returns a text of a length.
        length: of the shorter text.
        times: length of the longer text, in those of the shorter one.
    """

    def seconds(text: str) -> float:
        best = float("inf")
        for _ in range(3):
            began = time.thread_time()
            with contextlib.suppress(Exception):  # a refusal is an end as good as any
                work(text)
            best = min(best, time.thread_time() - began)
        return best

    # Half a millisecond is what a call costs whatever its text.
    return seconds(make(length * times)) / (times * (seconds(make(length)) + 5e-4))
