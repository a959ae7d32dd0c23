"""Transparency is white, colours are sRGB and greys keep their shades, whatever form the file gives them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from agentfly.images import load_image, on_white, without_transparency
from agentfly.images.pixels import normalise
from tests.fuzz.images import encoded, png_chunk
from tests.values import pixel

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
D50 = (0.96420, 1.0, 0.82491)


def profile(space: bytes, **tags: bytes) -> bytes:
    """Return an ICC profile (version 2) of a colour space."""
    body, table = b"", b""
    for name, value in tags.items():
        table += name.encode() + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    size = 132 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", space, b"XYZ ")
    light = b"".join(struct.pack(">i", round(value * 65536)) for value in D50)
    return head + bytes(12) + b"acsp" + bytes(28) + light + bytes(48) + struct.pack(">I", len(tags)) + table + body


def xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def matrix_profile(primaries: tuple[tuple[float, ...], ...], power: float) -> bytes:
    names = zip(("rXYZ", "gXYZ", "bXYZ"), map(xyz, primaries), strict=True)
    return profile(b"RGB ", wtpt=xyz(D50), **dict(names), **dict.fromkeys(("rTRC", "gTRC", "bTRC"), gamma(power)))


def from_p3(colour: tuple[int, ...], power: float) -> list[int]:
    """Return a colour of Display P3 with a plain gamma in sRGB, by the formulas of both."""
    srgb = np.array(((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))).T
    light = (np.linalg.inv(srgb) @ np.array(P3).T @ (np.array(colour) / 255) ** power).clip(0, 1)
    return list(np.round(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)))


def png(depth: int, colour: int, row: bytes, transparent: bytes, width: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "kept"),
    [
        (1, 0, b"\x80", b"\0\1", 0),
        (1, 0, b"\x80", b"\0\0", 255),
        (2, 0, b"\xc0", b"\0\3", 0),
        (4, 0, b"\xf0", b"\0\x0f", 0),
        (8, 0, b"\xff\0", b"\0\xff", 0),
        (16, 0, b"\x12\x34\x12\x35", b"\x12\x34", 0x12),
        (8, 2, b"\xff\x01\x02\0\0\0", b"\0\xff\0\1\0\2", 0),
        (16, 2, b"\x12\x34\x56\x78\x9a\xbc\0\0\0\0\0\0", b"\x12\x34\x56\x78\x9a\xbc", 0),
    ],
)
def test_a_transparent_colour_is_white(depth: int, colour: int, row: bytes, transparent: bytes, kept: int) -> None:
    loaded = load_image(png(depth, colour, row, transparent))
    hidden = 1 if kept == 255 else 0
    assert loaded.mode == "RGBA"
    assert pixel(loaded, (hidden, 0))[3] == 0
    assert pixel(loaded, (1 - hidden, 0)) == (*[kept] * 3, 255)
    assert pixel(on_white(loaded), (hidden, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("depth", "colour", "row"), [(8, 0, b"\1\2"), (8, 2, b"\1\2\3\4\5\6"), (16, 0, b"\1\0\2\0")])
def test_a_transparent_colour_that_no_pixel_has_changes_nothing(depth: int, colour: int, row: bytes) -> None:
    loaded = load_image(png(depth, colour, row, bytes(6)))
    assert loaded.mode == ("RGB" if colour else "L")
    assert pixel(loaded, (1, 0)) in ((2,), (4, 5, 6))


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "I;16"])
@pytest.mark.parametrize("declared", ["yes", (1,), (1, 2, "x"), [None], b"", 3.5, {}])
def test_what_cannot_be_a_transparent_colour_means_nothing(mode: str, declared: object) -> None:
    image = Image.new(mode, (2, 2))
    image.info["transparency"] = declared
    assert normalise(image).tobytes() == normalise(Image.new(mode, (2, 2))).convert(normalise(image).mode).tobytes()


@given(st.binary(min_size=16, max_size=16))
def test_hidden_colours_make_no_difference(values: bytes) -> None:
    given = Image.frombytes("RGBA", (2, 2), values)
    pixels = np.array(given)
    pixels[pixels[..., 3] == 0] = 0
    shown = np.asarray(on_white(given))
    assert np.array_equal(shown, np.asarray(on_white(Image.fromarray(pixels))))
    assert (shown[pixels[..., 3] == 0] == 255).all()


def test_only_what_is_transparent_changes_its_mode_for_a_model() -> None:
    for mode in ("L", "RGB"):
        image = Image.new(mode, (2, 2), 7)
        assert without_transparency(image) is image
    assert without_transparency(Image.new("RGBA", (2, 2))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("colour", [(200, 60, 90), (30, 180, 60), (90, 90, 90), (255, 255, 255)])
def test_a_wide_colour_space_is_converted(kind: str, colour: tuple[int, int, int]) -> None:
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.new("RGB", (16, 16), colour), kind, icc_profile=matrix_profile(P3, 2.2), **options)
    loaded = load_image(data)
    assert np.abs(np.array(pixel(loaded, (8, 8))) - from_p3(colour, 2.2)).max() <= 3
    assert not loaded.info


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_swapped_primaries_are_swapped_back(mode: str) -> None:
    places = {name: SRGB.index(name) for name in (b"rXYZ", b"gXYZ")}
    swapped = bytearray(SRGB)
    for name, place in places.items():
        swapped[place : place + 4] = b"gXYZ" if name == b"rXYZ" else b"rXYZ"
    image = Image.new("RGB", (4, 4), (255, 0, 0)).convert(mode)
    if mode == "RGBA":
        image.putalpha(90)
    loaded = load_image(encoded(image, icc_profile=bytes(swapped)))
    assert np.abs(np.array(pixel(loaded, (1, 1))[:3]) - (0, 255, 0)).max() <= 2
    assert loaded.mode != "RGBA" or pixel(loaded, (1, 1))[3] == 90


def test_an_image_from_memory_is_converted_by_its_profile_once() -> None:
    image = Image.new("RGB", (4, 4), (200, 60, 90))
    image.info["icc_profile"] = matrix_profile(P3, 2.2)
    once = load_image(image)
    assert once.getpixel((0, 0)) != (200, 60, 90)
    assert load_image(once).tobytes() == once.tobytes()


def test_grey_is_converted_by_a_grey_profile() -> None:
    linear = profile(b"GRAY", wtpt=xyz(D50), kTRC=gamma(1.0))
    for mode in ("L", "LA"):
        ramp = Image.frombytes("L", (3, 1), bytes((0, 55, 255))).convert(mode)
        loaded = load_image(encoded(ramp, icc_profile=linear))
        # 55/255 of the light of white is 128 in sRGB.
        assert [abs(pixel(loaded, (x, 0))[0] - value) <= 2 for x, value in enumerate((0, 128, 255))] == [True] * 3
        assert loaded.mode == ("RGBA" if mode == "LA" else "L")


@pytest.mark.parametrize(
    "icc", [SRGB, b"junk", SRGB[:200], b"\0" * 300, bytes(5_000_000), profile(b"CMYK"), profile(b"GRAY", kTRC=gamma(1))]
)
def test_srgb_and_profiles_that_do_not_fit_leave_the_pixels_alone(icc: bytes) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    noise.info["icc_profile"] = icc
    assert load_image(noise).tobytes() == noise.tobytes()


def test_lab_is_read() -> None:
    red = Image.new("RGB", (4, 4), (200, 30, 60))
    lab = ImageCms.profileToProfile(
        red, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    assert np.abs(np.array(pixel(load_image(encoded(lab, "TIFF")), (0, 0))) - (200, 30, 60)).max() <= 2


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0, 0.5, 1), (0, 128, 255)),
        ((0, 0.5, 1.3), (0, 128, 255)),
        ((0, 128, 255), (0, 128, 255)),
        ((0, 128, 300), (0, 128, 255)),
        ((0, 0x8080, 65535), (0, 128, 255)),
        ((0, 1e6, 2e6), (0, 128, 255)),
        ((-5, 0.5, 1), (0, 128, 255)),
        ((float("nan"), 0.5, float("inf")), (0, 128, 255)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_real_numbers_are_scaled_by_their_largest(values: tuple[float, ...], shown: tuple[int, ...]) -> None:
    loaded = load_image(encoded(Image.fromarray(np.array([values], np.float32)), "TIFF"))
    assert (loaded.mode, tuple(loaded.tobytes())) == ("L", shown)


@pytest.mark.parametrize(
    "made",
    [
        lambda values: Image.fromarray(np.array([values], np.uint16)),
        lambda values: Image.fromarray(np.array([values], np.int32)),
        lambda values: Image.fromarray(np.array([values], np.float32)),
    ],
)
@given(values=st.lists(st.integers(0, 65535), min_size=1, max_size=20))
def test_brighter_stays_brighter(made: Callable[[npt.ArrayLike], Image.Image], values: list[int]) -> None:
    shades = load_image(encoded(made(sorted(values)), "TIFF")).tobytes()
    assert all(before <= after for before, after in pairwise(shades))
