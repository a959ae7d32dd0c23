"""Load images from files, URLs, data URIs, base64, bytes, PIL images and Hugging Face rows.

A loaded image is decoded in full, upright (EXIF orientation applied), in sRGB (its colour profile applied), free of
metadata, and of mode RGB, RGBA or L.
Every other source is refused with an `ImageError` that names the remedy. The number of pixels is checked in the header,
before anything is decoded. Messages never carry base64 or the secret parts of a URL.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import urllib.parse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from agentfly.errors import AgentFlyError, ImageError, first_line, short_path
from agentfly.images.base64_text import decode_base64
from agentfly.images.pixels import in_srgb
from agentfly.images.png import without_metadata

logger = logging.getLogger(__name__)

ImageSource = Image.Image | bytes | str | os.PathLike[str] | Mapping[str, object]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_WANTED = "give a PNG, JPEG, WEBP, GIF, BMP or TIFF image"
# Bounded, since it is tried on texts of any length.
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{1,64})://|(file|data):", re.IGNORECASE)
_ORIENTATION_TAG = 0x0112
_WIDENED = {"L;2": 85, "L;4": 17}
# Bytes that a pixel takes while it is decoded and converted, all copies together, by the mode of the file. Measured.
_WORKING = {"1": 2, "L": 2, "P": 6, "I;16": 15, "I": 18, "F": 26}
_WORKING_COLOUR, _WORKING_TWICE, _WORKING_WEBP, _WORKING_DECLARED = 8, 12, 20, 22
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _hold_any(_: int) -> None:
    """Let an image take any memory."""


@dataclass(frozen=True)
class ImageLimits:
    """Limits of `load_image`.

    Attributes:
        max_pixels: width x height at most, checked before decoding.
        max_bytes: bytes of a file, an upload or a download at most.
        timeout: seconds for a whole download, redirects included.
        allow_private_hosts: also fetch from loopback, private and link-local addresses. Leave it off on servers.
        allow_files: read local paths. Servers that take images from strangers switch it off.
        hold: called with the bytes of memory that an image takes, before its pixels are decoded, and with a negative
            number when some of them are free again. The image that is returned keeps `memory_of` it. An
            `AgentFlyError` that it raises leaves `load_image` as it is.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = 64 * 1024 * 1024
    timeout: float = 20.0
    allow_private_hosts: bool = False
    allow_files: bool = True
    hold: Callable[[int], None] = _hold_any


DEFAULT_LIMITS = ImageLimits()


def load_image(
    source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS, convert: Callable[[Image.Image], Image.Image] = in_srgb
) -> Image.Image:
    """Load an image, decoded and upright.

    Args:
        source: a PIL image, encoded bytes, a path, an http(s) URL, a data URI, bare base64, or a row of a Hugging
            Face `Image` column (`{"bytes": ..., "path": ...}`). An animation gives its first frame.
        limits: of sizes, times and kinds of sources.
        convert: brings a decoded image to one of the three modes.

    Returns:
        A new image of mode RGB, RGBA or L, without metadata. A PIL source is not changed.

    Raises:
        ImageError: not an image, too large, cut off, unreachable, or refused for safety.
    """
    try:
        return _load(source, limits, convert)
    except AgentFlyError:
        raise
    except Exception as fault:  # decoders, file systems and addresses raise anything on hostile input
        raise ImageError(f"this image cannot be loaded ({type(fault).__name__}): give another one") from fault


def memory_of(image: Image.Image) -> int:
    """Return the bytes that a decoded image takes; Pillow has four for a pixel of RGB."""
    return image.width * image.height * (1 if image.mode == "L" else 4)


def _working_memory(image: Image.Image) -> int:
    """Return the bytes that an image takes at most while it is decoded and converted, by what its header says."""
    each = _WORKING.get(image.mode[:4], _WORKING_COLOUR)
    if image.info.get("icc_profile") or image.info.get("progressive"):
        each = max(each, _WORKING_TWICE)
    if image.format == "WEBP":
        each = max(each, _WORKING_WEBP)
    if image.mode != "P" and image.info.get("transparency") is not None:
        each = max(each, _WORKING_DECLARED)
    return image.width * image.height * each


def _load(source: ImageSource, limits: ImageLimits, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if isinstance(source, Image.Image):
        return _finish(source, limits, convert)
    data = _read(source, limits)
    if len(data) > limits.max_bytes:
        raise ImageError(_too_many_bytes(len(data), limits))
    kind = _kind(data)
    if kind not in FORMATS:
        raise ImageError(f"this is {kind}, not an image that can be edited: {_WANTED}")
    with warnings.catch_warnings():
        # `max_pixels` is the limit here; Pillow's own warning would come on top of it.
        warnings.simplefilter("ignore")
        try:
            return _decode(data, kind, limits, convert)
        except ImageError:
            pixels = without_metadata(data) if kind == "PNG" else None
            if pixels is None:
                raise
            return _decode(pixels, kind, limits, convert)


def _decode(data: bytes, kind: str, limits: ImageLimits, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        image = Image.open(BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError as fault:
        raise ImageError(f"this image has far too many pixels, {limits.max_pixels} are allowed: resize it") from fault
    except Exception as fault:  # decoders raise anything on broken bytes
        raise ImageError(f"this {kind} file is broken or cut off: save the image again") from fault
    declared = image.info.get("transparency")
    if kind == "PNG" and isinstance(declared, int) and image.tile:
        # Pillow widens the pixels of 2 and 4 bits, and leaves the transparent grey as the file has it.
        image.info["transparency"] = declared * _WIDENED.get(str(image.tile[0].args), 1)
    return _finish(image, limits, convert)


def _read(source: object, limits: ImageLimits) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, str):
        return _read_text(source.strip(), limits)
    if isinstance(source, os.PathLike):
        return _read_file(Path(source), limits)
    if isinstance(source, Mapping):
        inner = source.get("bytes") or source.get("path") or source.get("url")
        if inner is None or isinstance(inner, Mapping):
            raise ImageError("an image given as a mapping needs 'bytes' (encoded image) or 'path'")
        return _read(inner, limits)
    raise ImageError(
        f"cannot load an image from {type(source).__name__}: give a path, URL, data URI, base64, bytes or PIL image"
    )


def _read_text(text: str, limits: ImageLimits) -> bytes:
    scheme = _SCHEME.match(text)
    name = (scheme.group(1) or scheme.group(2)).lower() if scheme else ""
    if name in ("http", "https"):
        from agentfly.images.fetch import fetch

        return fetch(
            text, timeout=limits.timeout, max_bytes=limits.max_bytes, allow_private_hosts=limits.allow_private_hosts
        )
    if name == "data":
        return _read_data_uri(text, limits)
    if name:
        raise ImageError(f"images are not loaded from {name}: addresses; use http(s), a data URI or a plain path")
    # A JPEG in base64 starts with "/9j/", so a text counts as a path only where there is a file.
    if limits.allow_files and len(text) < 4096 and os.path.isfile(text):
        return _read_file(Path(text), limits)
    return _read_base64(text, limits)


def _read_file(path: Path, limits: ImageLimits) -> bytes:
    if not limits.allow_files:
        raise ImageError("local files are not read here: send the image as a URL, data URI or base64")
    try:
        # A device or a pipe may have no end, and opening one can have effects.
        if not path.is_file():
            raise ImageError(f"no image file at {short_path(str(path))!r}: check the path")
        # Without O_NONBLOCK, what became a pipe meanwhile would be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size > limits.max_bytes:
                raise ImageError(_too_many_bytes(status.st_size, limits))
            # The files of /proc say that they are empty. Some of them, such as kmsg, are never read to their end.
            return (file.read(status.st_size) or b"") if stat.S_ISREG(status.st_mode) and status.st_size else b""
    except (OSError, ValueError) as fault:
        if isinstance(fault, ImageError):
            raise
        reason = fault.strerror if isinstance(fault, OSError) else str(fault)
        raise ImageError(f"cannot read {short_path(str(path))!r}: {reason}") from fault


def _read_data_uri(text: str, limits: ImageLimits) -> bytes:
    header, comma, body = text.partition(",")
    if not comma:
        raise ImageError("this data URI has no ',' between its type and its data: data:image/png;base64,...")
    if len(body) > limits.max_bytes * 3:
        raise ImageError(_too_many_bytes(len(body) * 3 // 4, limits))
    if not header.lower().rstrip().endswith(";base64"):
        return urllib.parse.unquote_to_bytes(body)
    data = decode_base64(urllib.parse.unquote(body))
    if data is None:
        raise ImageError("the data of this data URI is not valid base64: was it cut off?")
    return data


def _read_base64(text: str, limits: ImageLimits) -> bytes:
    if len(text) > limits.max_bytes * 3:
        raise ImageError(_too_many_bytes(len(text) * 3 // 4, limits))
    data = decode_base64(text)
    if data is not None and (_kind(data) in FORMATS or len(text) > 512):
        return data
    if not text:
        raise ImageError(f"the image source is an empty text: {_WANTED}")
    if len(text) > 512:
        raise ImageError("this text is neither a path, a URL nor valid base64 of an image")
    if not limits.allow_files:
        raise ImageError("local files are not read here: send the image as a URL, data URI or base64")
    raise ImageError(f"no image file at {short_path(text)!r}: check the path")


def _finish(image: Image.Image, limits: ImageLimits, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if image.width * image.height > limits.max_pixels:
        raise ImageError(
            f"this image has {image.width}x{image.height} = {image.width * image.height} pixels, "
            f"{limits.max_pixels} are allowed: resize it"
        )
    if not image.width or not image.height:
        raise ImageError(f"this image is empty ({image.width}x{image.height} pixels)")
    working = _working_memory(image)
    limits.hold(working)
    try:
        out = _pixels(image, convert)
    except BaseException:
        limits.hold(-working)
        raise
    limits.hold(memory_of(out) - working)
    return out


def _pixels(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return a decoded image, upright and converted; `image` itself stays as it is."""
    try:
        image.load()
        try:
            orientation = image.getexif().get(_ORIENTATION_TAG)
        except Exception as fault:  # broken metadata is no reason to refuse good pixels
            logger.debug("EXIF not readable: %s", fault)
            orientation = None
        turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
        out = convert(image if turn is None else image.transpose(turn))
    except Exception as fault:  # decoders raise anything on broken bytes
        raise ImageError(f"this image is broken or cut off ({first_line(fault)}): save it again") from fault
    if out is image:
        out = out.copy()
    # An orientation that stayed would be applied a second time when the image is loaded again.
    out.info = {}
    return out


def _kind(data: bytes) -> str:
    """Return the name in `FORMATS`, or a description of the bytes for messages."""
    for kind, magics in _MAGICS.items():
        if data.startswith(magics):
            return kind
    if data[:4] == b"RIFF":
        return {b"WEBP": "WEBP", b"AVI ": "a video"}.get(data[8:12], "a sound or unknown RIFF file")
    if data[4:8] == b"ftyp":
        still = data[8:12] in (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")
        return "an AVIF or HEIC file" if still else "a video"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "an SVG drawing"
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page"
    if not data:
        return "empty"
    start = data[:512].decode("utf-8", "ignore")
    is_text = len(start) >= len(data[:512]) - 3 and all(char.isprintable() or char in "\r\n\t" for char in start)
    return "text" if is_text else "no known image format"


_MAGICS: dict[str, tuple[bytes, ...]] = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    "a PDF document": (b"%PDF",),
    "a video": (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"FLV"),
    "a companion file that macOS writes beside the image": (b"\x00\x05\x16\x07",),
    "an archive": (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf"),
}


def _too_many_bytes(size: int, limits: ImageLimits) -> str:
    return f"this image has {size} bytes, {limits.max_bytes} are allowed: resize or compress it"
