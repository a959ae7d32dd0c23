"""Every form of an image is read; everything else is refused, in words that say what to do."""

from __future__ import annotations

import base64
import os
import random
import socket
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agentfly.errors import AgentFlyError, ImageError
from agentfly.images import ImageLimits, load_image
from tests.fuzz.images import SOURCES

RED_BLUE = Image.new("RGB", (5, 3), (255, 0, 0))
RED_BLUE.putpixel((4, 0), (0, 0, 255))


def encoded(image: Image.Image = RED_BLUE, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def same(image: Image.Image, other: Image.Image = RED_BLUE) -> bool:
    return (image.mode, image.size, image.tobytes()) == (other.mode, other.size, other.tobytes())


def test_every_source_gives_the_same_image(tmp_path: Path) -> None:
    data = encoded()
    path = tmp_path / "an image.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    wrapped = "\n".join(text[i : i + 40] for i in range(0, len(text), 40))
    sources: list[Any] = [
        RED_BLUE,
        data,
        bytearray(data),
        path,
        str(path),
        text,
        wrapped,
        text.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        f"data:image/png;base64,{text}",
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
    ]
    assert all(same(load_image(source)) for source in sources)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_are_exact(kind: str) -> None:
    assert same(load_image(encoded(kind=kind)))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_the_other_formats_are_read(kind: str) -> None:
    assert load_image(encoded(kind=kind)).size == (5, 3)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    loaded = load_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert loaded.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_come_upright_and_stay_so(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = Image.new("RGB", (48, 32), "white")
    plain.paste("black", (0, 0, 16, 16))
    loaded = load_image(encoded(plain, kind, exif=exif))
    assert loaded.size == ((48, 32) if orientation < 5 else (32, 48))
    # Where the dark corner must be once the image stands upright (EXIF 2.32, tag 0x0112).
    corner = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}[orientation]
    grey = np.asarray(loaded.convert("L"))
    dark = grey[-8:, :] if corner[1] else grey[:8, :]
    dark = dark[:, -8:] if corner[0] else dark[:, :8]
    assert dark.max() < 60
    assert same(load_image(loaded), loaded)
    assert not loaded.info


def test_sixteen_bit_images_do_not_turn_white() -> None:
    values = np.full((2, 2), 0x4000, dtype=np.uint16)
    assert load_image(encoded(Image.fromarray(values))).getpixel((0, 0)) == 0x40


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (Image.new("1", (2, 2)), "L"),
        (Image.new("L", (2, 2)), "L"),
        (Image.new("LA", (2, 2)), "RGBA"),
        (Image.new("P", (2, 2)), "RGB"),
        (Image.new("RGBA", (2, 2)), "RGBA"),
    ],
)
def test_the_mode_is_one_of_three(image: Image.Image, mode: str) -> None:
    assert load_image(encoded(image)).mode == mode


def test_a_pil_image_is_not_shared() -> None:
    mine = RED_BLUE.copy()
    load_image(mine).putpixel((0, 0), (1, 2, 3))
    assert same(mine)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7 x", "PDF"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"just some words", "text"),
        (b"\x00\x00\x00\x18ftypisom0000", "video"),
        (b"\x00\x00\x00\x18ftypavif0000", "AVIF"),
        (b"\x1aE\xdf\xa3webm", "video"),
        (b"\x00\x01\x02\x03\xff\xfe", "no known image format"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "companion file that macOS writes"),
        (b"", "empty"),
        (encoded(kind="ICO"), "no known image format"),
    ],
)
def test_what_is_no_raster_image_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=rf"{words}.*PNG, JPEG"):
        load_image(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_file_that_was_cut_off_is_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(ImageError, match="broken or cut off"):
        load_image(data[: len(data) // 2])


def bomb(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_001, 12_000, 60_000])
def test_too_many_pixels_are_seen_in_the_header(side: int) -> None:
    # There are no pixels behind this header: decoding would complain of a broken file instead.
    with pytest.raises(ImageError, match=r"pixels.*64000000 are allowed: resize"):
        load_image(bomb(side, side))


def test_the_pixel_limit_holds_for_pil_images_too() -> None:
    with pytest.raises(ImageError, match="5x3 = 15 pixels, 14 are allowed"):
        load_image(RED_BLUE, ImageLimits(max_pixels=14))


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match="empty"):
        load_image(Image.new("RGB", (0, 5)))


def test_too_many_bytes_are_refused_in_every_form(tmp_path: Path) -> None:
    data = encoded()
    path = tmp_path / "a.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    for source in (data, path, text, f"data:image/png;base64,{text}"):
        with pytest.raises(ImageError, match="bytes, 20 are allowed"):
            load_image(source, ImageLimits(max_bytes=20))


@pytest.mark.parametrize("source", ["file:///etc/hostname", "file:/etc/hostname", "ftp://host/a.png", "gopher://x/"])
def test_other_schemes_are_refused(source: str) -> None:
    with pytest.raises(ImageError, match="use http"):
        load_image(source)


def test_files_are_not_read_where_they_are_not_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    for source in (path, str(path), {"path": str(path)}, {"bytes": None, "path": path}):
        with pytest.raises(ImageError, match="local files are not read here"):
            load_image(source, ImageLimits(allow_files=False))


def test_a_pipe_is_no_image_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.png"))
    for source in (tmp_path / "pipe.png", tmp_path, tmp_path / "socket.png", Path("/dev/zero"), Path("/dev/tty")):
        for form in (source, str(source)):
            with pytest.raises(ImageError, match="no image file"):
                load_image(form)


# `kmsg` and `kcore` are regular files by their mode; the first has no end and waits, the second says it is 128 TB.
@pytest.mark.parametrize("path", ["/proc/kmsg", "/proc/kcore", "/proc/self/mem", "/proc/self/stat", "/proc/self/fd/0"])
def test_files_of_the_kernel_are_refused_at_once(path: str) -> None:
    with pytest.raises(ImageError):
        load_image(Path(path))


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    with pytest.raises(ImageError, match="empty"):
        load_image(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no/such/cat.png", "no image file at 'no/such/cat.png': check the path"),
        ("cat", "no image file at 'cat'"),
        ("", "empty"),
        ("a\0b.png", "no image file"),
        (Path("a\0b.png"), "an image|cannot read|no image"),
        ("data:image/png;base64", "','"),
        ("data:image/png;base64,###", "not valid base64"),
        ({"bytes": None, "path": None}, "'bytes'"),
        (3, "int"),
        (None, "NoneType"),
    ],
)
def test_wrong_sources_are_named(source: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        load_image(source)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_messages_never_carry_the_payload(prefix: str) -> None:
    secret = base64.b64encode(b"no image but a secret " * 100).decode()
    for text in (prefix + secret, prefix + secret + "!"):
        with pytest.raises(ImageError) as caught:
            load_image(text)
        assert len(str(caught.value)) < 200
        assert secret[:24] not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]), st.data())
def test_broken_bytes_raise_image_errors_only(kind: str, data: st.DataObject) -> None:
    body = bytearray(encoded(kind=kind))
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = load_image(bytes(body), ImageLimits(max_pixels=1_000_000))
    except ImageError:
        return
    assert image.mode in ("RGB", "RGBA", "L")


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text(st.characters()) | st.binary())
def test_any_text_or_bytes_raise_image_errors_only(source: str | bytes) -> None:
    with pytest.raises(ImageError):
        load_image(source, ImageLimits(allow_files=False, timeout=0.001))


@pytest.mark.parametrize("family", SOURCES)
def test_hostile_sources_are_loaded_or_refused_in_printable_words(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[Any]:
        raise OSError("no name is looked up in a test")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    pick = random.Random(family)
    for _ in range(40):
        source: Any = SOURCES[family](pick)
        words = ""
        try:
            image = load_image(source, ImageLimits(max_pixels=1_000_000, allow_files=False, timeout=5))
            assert image.mode in ("RGB", "RGBA", "L")
        except ImageError as fault:
            words = str(fault)
        assert words.isprintable()
        assert len(words) < 400


@pytest.mark.parametrize(
    "source",
    [
        "data:,\ud800",
        "data:text/plain,\udfff",
        {"path": "\ud800.png"},
        {"bytes": np.zeros(3)},
        {"bytes": {"bytes": b""}},
        {"path": 3},
        Path("\ud800.png"),
        bytearray(b"\x89PNG"),
        memoryview(b"\xff\xd8\xff"),
    ],
)
def test_a_fault_of_any_kind_is_an_image_error(source: Any) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(source)
    assert str(caught.value).isprintable()


def test_memory_is_held_before_pixels_are_decoded_and_what_is_not_needed_is_given_back() -> None:
    held: list[int] = []
    load_image(encoded(Image.new("RGB", (20, 10))), ImageLimits(hold=held.append))
    assert held[0] > 0 > held[1]
    assert sum(held) == 20 * 10 * 4
    held.clear()
    with pytest.raises(ImageError, match="broken or cut off"):
        load_image(encoded(Image.effect_noise((99, 99), 80))[:-5000], ImageLimits(hold=held.append))
    assert held[0] > 0
    assert sum(held) == 0


def test_an_image_without_memory_is_not_decoded() -> None:
    class Full(AgentFlyError):
        pass

    def refuse(size: int) -> None:
        raise Full(str(size))

    # Its pixels are broken, which only decoding them would tell.
    for image in (Image.effect_noise((99, 99), 80), Image.new("RGBA", (99, 99))):
        with pytest.raises(Full):
            load_image(encoded(image)[:-60], ImageLimits(hold=refuse))


_MEASURING = """
import sys
from agentfly.images import ImageLimits, load_image

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

load_image(sys.argv[1])  # imports what is needed
for path in sys.argv[2:]:
    held = [0]
    data = open(path, "rb").read()
    open("/proc/self/clear_refs", "w").write("5")
    before = peak()
    load_image(data, ImageLimits(hold=lambda size: held.append(held[-1] + size)))
    print(max(held), peak() - before)
"""


@pytest.mark.slow
def test_the_memory_that_is_held_is_that_of_decoding(tmp_path: Path) -> None:
    smooth = Image.linear_gradient("L").resize((2000, 2000))
    colour = Image.merge("RGB", [smooth] * 3)
    numbers = np.asarray(smooth)
    exif = Image.Exif()
    exif[0x112] = 6
    files: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "small": (RED_BLUE, "PNG", {}),
        "grey": (smooth, "PNG", {}),
        "colour": (colour, "PNG", {}),
        "turned": (colour, "JPEG", {"exif": exif}),
        "progressive": (colour, "JPEG", {"progressive": True, "subsampling": 0}),
        "palette": (colour.quantize(8), "GIF", {}),
        "declared": (colour, "PNG", {"transparency": (0, 0, 0)}),
        "16 bits": (Image.fromarray(numbers.astype(np.uint16) * 257), "PNG", {}),
        "32 bits": (Image.fromarray(numbers.astype(np.int32) * 257), "TIFF", {}),
        "real": (Image.fromarray(numbers.astype(np.float32) / 255), "TIFF", {}),
        "webp": (colour.convert("RGBA"), "WEBP", {"method": 0}),
    }
    for name, (image, kind, options) in files.items():
        (tmp_path / name).write_bytes(encoded(image, kind, **options))
    paths = [str(tmp_path / name) for name in files]
    run = subprocess.run([sys.executable, "-c", _MEASURING, *paths], capture_output=True, text=True, timeout=100)
    if "clear_refs" in run.stderr:
        pytest.skip("the kernel does not reset the peak of a process")
    assert not run.stderr
    for name, line in zip(list(files)[1:], run.stdout.splitlines(), strict=True):
        held, taken = map(int, line.split())
        assert taken < held * 1.1 + 1_000_000, name
