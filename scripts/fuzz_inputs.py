"""Generators of hostile inputs for `scripts/fuzz.py`. Equal random sources give equal inputs.

To add a family, add a function of a random source to a list: `VALUES` of JSON, `TEXTS` of models, `FILES` of images,
`SOURCES` of images, `REQUESTS` to an image server.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from PIL import Image

T = TypeVar("T")
Make = Callable[[Random], T]

# --- texts -----------------------------------------------------------------------------------------------------------

WORDS = (
    "cat",
    "",
    " ",
    "\ud800",
    "\x1b[2J",
    "ä\u202e",
    "null",
    "None",
    '"}}',
    "</tool_call>",
    "[/cyan]",
    "img_1",
    "\x00",
)
UNITS = (
    '{"',
    "[",
    "<tool_call>{",
    "<tool_call>",
    "</think>",
    "<think>",
    "```json\n",
    "\\",
    " ",
    "\r\n",
    '","',
    "{'a':",
    "é",
)
TOOL_NAMES = ("give_answer", "qwen_edit_image", "auto_mask", "inpaint_image", "no_such_tool", "", "\ud800")


def nested(random: Random) -> object:
    """Return lists or objects in each other."""
    value: object = 1
    for _ in range(random.choice((3, 60, 600))):
        value = [value] if random.random() < 0.5 else {"a": value}
    return value


VALUES: list[Make[object]] = [
    lambda random: random.choice((None, True, False, 0, -1, 1.5, 10**400, math.nan, math.inf, 1e-9)),
    lambda random: random.choice(WORDS),
    lambda random: random.choice(("img_1", "img_2", "mask_1", "img_999", ["img_1"], {"id": "img_1"})),
    lambda random: random.choice(("darken", "remove the circle", "blur")),
    lambda random: random.choice(UNITS) * random.randrange(300),
    lambda random: [random.choice(WORDS) for _ in range(random.randrange(5))],
    nested,
]


def value(random: Random) -> object:
    """Return a value that JSON may carry."""
    return random.choice(VALUES)(random)


def call(random: Random) -> str:
    """Return a call as JSON, perhaps of a wrong shape."""
    names = ("image_id", "prompt", "final_image_id", "mask_id", "box_threshold", "x", "")
    arguments: object = {random.choice(names): value(random) for _ in range(random.randrange(5))}
    arguments = random.choice((arguments, arguments, arguments, json.dumps(arguments), value(random)))
    name = random.choice((*TOOL_NAMES, value(random)))
    made = {"name": name, random.choice(("arguments", "arguments", "parameters", "args")): arguments}
    return json.dumps(random.choice((made, made, {"function": made}, [made, made])), ensure_ascii=random.random() < 0.5)


def wrapped(random: Random) -> str:
    """Return a call in one of the forms in which models write it."""
    forms = (
        "<tool_call>{}</tool_call>",
        "<tool_call>\n{}",
        "```json\n{}\n```",
        "```JSON\r\n{}\r\n```",
        "~~~json\n{}\n~~~",
        "<think>Maybe {}</think>done",
        "Maybe <tool_call>{}</tool_call></think>",
        "<tool_calls>{}</tool_calls>",
        "[TOOL_CALLS][{}]",
        "{}",
    )
    return random.choice(forms).replace("{}", call(random))


def mutated(random: Random, data: T) -> T:
    """Return a text or bytes with some pieces cut out, doubled or exchanged."""
    made: Any = data
    for _ in range(random.randrange(1, 4)):
        if not made:
            break
        start = random.randrange(len(made))
        end = min(len(made), start + random.randrange(1, 20))
        piece = made[start:end]
        made = made[:start] + random.choice((piece[:0], piece * 2, piece[::-1], made[:7])) + made[end:]
    kept: T = made if random.random() < 0.8 else made[: random.randrange(len(made) + 1)]
    return kept


def repeated(random: Random) -> str:
    """Return one unit again and again."""
    return random.choice(UNITS) * random.choice((10, 1000, 8000)) + random.choice(("", *UNITS))


TEXTS: list[Make[str]] = [
    wrapped,
    lambda random: "".join(wrapped(random) for _ in range(3)),
    lambda random: mutated(random, wrapped(random)),
    lambda random: mutated(random, wrapped(random) + call(random)),
    repeated,
    lambda random: "".join(random.choice((*WORDS, *UNITS)) for _ in range(random.randrange(60))),
    lambda random: f"feedback: {{'success': {value(random)!r}}} {random.randrange(12)}/10",
]

# --- images ----------------------------------------------------------------------------------------------------------

MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr")
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def image(random: Random) -> Image.Image:
    """Return an image of any mode and shape, with odd things beside its pixels."""
    size = random.choice(((24, 18), (1, 1), (1, 90), (64, 64)))
    made = Image.linear_gradient("L").resize(size).convert("RGB").convert(random.choice(("L", "RGB", "RGBA")))
    with contextlib.suppress(ValueError):
        made = made.convert(random.choice(MODES))
    beside: list[dict[str | tuple[int, int], Any]] = [{}, {"transparency": 0}, {"icc_profile": b"x"}, {"dpi": (0, 0)}]
    made.info = random.choice(beside)
    return made


def encoded(random: Random) -> bytes:
    """Return an image as a file."""
    buffer = io.BytesIO()
    with contextlib.suppress(Exception):  # not every format takes every mode
        made = image(random)
        made.save(buffer, random.choice(KINDS), **{str(name): item for name, item in made.info.items()})
    return buffer.getvalue() or b"\x89PNG\r\n\x1a\n"


def png_with_chunk(random: Random) -> bytes:
    """Return a PNG with a further chunk: too large when inflated, of a wrong sum, or of no known kind."""
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(buffer, "PNG")
    content = zlib.compress(bytes(random.choice((10, 3_000_000))))
    kind = random.choice((b"zTXt", b"iCCP", b"tRNS", b"eXIf", b"IHDR", b"IDAT", b"acTL", b"gAMA"))
    body = kind + random.choice((b"a\0\0" + content, content, b""))
    crc = random.choice((zlib.crc32(body), 0))
    data = buffer.getvalue()
    return data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", crc) + data[33:]


def promising(random: Random) -> bytes:
    """Return a PNG whose header promises a size that its data does not have."""
    sizes = (0, 1, 7, 65_535, 2**31 - 1, 2**32 - 1)
    depth, colour = random.choice((1, 8, 16, 99)), random.choice((0, 2, 3, 6, 9))
    header = struct.pack(">IIBBBBB", random.choice(sizes), random.choice(sizes), depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


FILES: list[Make[bytes]] = [
    encoded,
    lambda random: mutated(random, encoded(random)),
    lambda random: encoded(random)[: random.randrange(200)],
    png_with_chunk,
    promising,
    lambda random: random.choice((b"", b"<html>", b"II*\0", b"RIFF", b"%PDF")) + random.randbytes(random.randrange(90)),
]


def file(random: Random) -> bytes:
    """Return bytes that may be an image file."""
    return random.choice(FILES)(random)


# No name here is looked up, and no address is public: nothing leaves the machine.
ADDRESSES = (
    "http://xn--/a.png",
    "http://[::1",
    "http://\ud800/",
    "http://127.0.0.1:1/",
    "file:///etc/passwd",
    "http://",
)
SOURCES: list[Make[object]] = [
    file,
    lambda random: base64.b64encode(file(random)).decode(),
    lambda random: mutated(random, base64.b64encode(file(random)).decode()),
    lambda random: f"data:image/png;base64,{base64.urlsafe_b64encode(file(random)).decode()}",
    lambda random: mutated(random, f"data:image/png;base64,{base64.b64encode(encoded(random)).decode()}"),
    lambda random: random.choice((" ", "=", "A", "A ", "\n", "%41", "-_")) * random.choice((10, 5000, 40_000)),
    lambda random: random.choice(ADDRESSES),
    lambda random: random.choice(WORDS) * random.choice((1, 5000)),
    lambda random: {"bytes": random.choice((None, b"", file(random))), "path": value(random)},
    lambda random: random.choice(("/proc/kmsg", "/dev/zero", "/proc/self/mem", ".", "a" * 4000, "\0")),
    image,
    value,
]

# --- requests --------------------------------------------------------------------------------------------------------

# Path, content type, body, and whether the client leaves before the answer.
Request = tuple[str, str, bytes, bool]
FILE_NAME = '; filename="a.png"'
EDITS = "/v1/images/edits"
PATHS = (EDITS, f"{EDITS}/upload", "/v1/images/generations", "/v1/detections", "/health", "/\ud800")
FIELDS = (
    "prompt",
    "image",
    "image[]",
    "image[0]",
    "mask",
    "mask[]",
    "n",
    "size",
    "seed",
    "timeout",
    "strength",
    "\ud800",
)


def fields(random: Random) -> dict[str, object]:
    """Return fields of a request, mostly enough of them for an edit."""

    def item() -> object:
        return random.choice((value(random), value(random), base64.b64encode(file(random)).decode(), "darken", 1e-9, 2))

    made = {random.choice(FIELDS): item() for _ in range(random.randrange(6))}
    if random.random() < 0.7:
        made |= {"prompt": "darken", "image": base64.b64encode(file(random)).decode()}
    return made


def form(random: Random) -> bytes:
    """Return fields as a form, whose files may be texts and the other way round."""
    parts = []
    for name, item in fields(random).items():
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"{random.choice(("", FILE_NAME))}'
        content = file(random) if random.random() < 0.5 else str(item).encode("utf-8", "replace")
        parts.append(f"{head}\r\n\r\n".encode("utf-8", "replace") + content + b"\r\n")
    return b"".join(parts) + b"--b--\r\n"


def body(random: Random) -> bytes:
    """Return fields as JSON."""
    return json.dumps(fields(random), default=repr).encode()


def hurried(random: Random) -> Request:
    """Return a good edit whose client hardly waits."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, "PNG")
    content = {"prompt": "blur", "image": base64.b64encode(buffer.getvalue()).decode()}
    seconds = random.choice((1e-9, 1e-4, 1e-3, 0.01, 30))
    return EDITS, "application/json", json.dumps({**content, "timeout": seconds}).encode(), random.random() < 0.3


REQUESTS: list[Make[Request]] = [
    hurried,
    lambda random: (random.choice(PATHS), "application/json", body(random), random.random() < 0.2),
    lambda random: (random.choice(PATHS), "multipart/form-data; boundary=b", form(random), random.random() < 0.2),
    lambda random: (EDITS, "application/json", mutated(random, body(random)), False),
    lambda random: (EDITS, "multipart/form-data; boundary=b", mutated(random, form(random)), False),
    lambda random: (EDITS, random.choice(("multipart/form-data", "text/plain", "")), body(random), False),
]
