"""A PNG file whose pixels are good is shown, whatever stands beside them; one that is cut off is not."""

from __future__ import annotations

import os
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from agentfly.datasets.photos import load_photo
from agentfly.errors import ImageError
from agentfly.images import load_image
from agentfly.images.png import png_bytes, png_size, without_metadata
from tests.fuzz.images import encoded, png_chunk, with_chunks

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8))
LARGE = zlib.compress(bytes(3_000_000))
BAD = {
    "text that inflates too far": png_chunk(b"zTXt", b"Comment\0\0" + LARGE),
    "international text that inflates too far": png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE),
    "much text": png_chunk(b"tEXt", b"k\0" + bytes(1000)) * 3 + png_chunk(b"zTXt", b"k\0\0" + LARGE) * 70,
    "profile that inflates too far": png_chunk(b"iCCP", b"p\0\0" + LARGE),
    "profile in an unknown compression": png_chunk(b"iCCP", b"p\0\7x"),
    "profile without a name": png_chunk(b"iCCP", b""),
    "wrong checksum of a text": png_chunk(b"tEXt", b"k\0v", right=False),
    "wrong checksum of the resolution": png_chunk(b"pHYs", bytes(9), right=False),
    "wrong checksum of an unknown chunk": png_chunk(b"abCd", b"x", right=False),
    "short gamma": png_chunk(b"gAMA", b"x"),
    "wrong frames": png_chunk(b"acTL", bytes(8)) + png_chunk(b"fcTL", bytes(26)) * 2,
    "text that claims to be transparency": png_chunk(b"tEXt", b"transparency\0yes"),
    "text that claims to be a profile": png_chunk(b"tEXt", b"icc_profile\0yes"),
    "text that claims to be EXIF": png_chunk(b"tEXt", b"exif\0yes"),
}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (64, 48), (300, 200)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_written_file_has_every_pixel_and_no_metadata(mode: str, size: tuple[int, int]) -> None:
    shape = (size[1], size[0], *{"L": (), "RGB": (3,), "RGBA": (4,)}[mode])
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))
    for image in (noise, Image.new(mode, size, "white"), noise.resize((max(1, size[0] // 9), size[1])).resize(size)):
        image.info["comment"] = "private"
        with Image.open(BytesIO(png_bytes(image)), formats=("PNG",)) as file:
            file.verify()
        read = Image.open(BytesIO(png_bytes(image)), formats=("PNG",))
        assert (read.mode, read.size, read.tobytes()) == (image.mode, image.size, image.tobytes())
        assert read.info == {}


def test_a_written_mask_is_small_and_a_photograph_hardly_larger_than_pillow_writes_it() -> None:
    photo, mask = load_photo("astronaut.png").resize((256, 256)), Image.new("L", (512, 512))
    mask.paste(255, (100, 100, 300, 300))
    usual = BytesIO()
    photo.save(usual, "PNG", compress_level=1)
    assert len(png_bytes(photo)) < 1.1 * len(usual.getvalue())
    assert len(png_bytes(mask)) < 4000


@pytest.mark.parametrize("place", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_good_pixels_are_shown_whatever_stands_beside_them(mode: str, name: str, place: bytes) -> None:
    image = IMAGE.convert(mode)
    loaded = load_image(with_chunks(encoded(image), BAD[name], before=place))
    assert loaded.tobytes() == load_image(image).tobytes()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_transparency_and_orientation_stay_when_the_rest_is_left_out() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    png = encoded(Image.new("L", (3, 2), 7), transparency=7, exif=exif)
    loaded = load_image(with_chunks(png, BAD["text that inflates too far"]))
    assert (loaded.mode, loaded.size, loaded.getpixel((0, 0))) == ("RGBA", (2, 3), (7, 7, 7, 0))


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE"])
def test_a_wrong_checksum_of_a_needed_chunk_is_refused(name: bytes) -> None:
    data = bytearray(encoded(IMAGE.convert("P")))
    place = data.index(name)
    end = place + 4 + int.from_bytes(data[place - 4 : place], "big")
    data[end] ^= 1
    with pytest.raises(ImageError, match="broken or cut off"):
        load_image(bytes(data))


def is_read(data: bytes) -> bool:
    try:
        load_image(data)
    except ImageError:
        return False
    return True


@pytest.mark.slow
def test_bad_metadata_lets_no_file_pass_that_is_cut_off() -> None:
    good = encoded(IMAGE)
    bad = with_chunks(good, BAD["text that inflates too far"])
    read = [is_read(good[:-cut]) for cut in range(1, len(good) - 50)]
    assert [is_read(bad[:-cut]) for cut in range(1, len(good) - 50)] == read
    assert sum(read) <= 20  # the last bytes are two checksums and the mark of the end


def test_a_file_without_metadata_is_not_read_twice() -> None:
    assert without_metadata(encoded(IMAGE)) is None


def test_the_size_of_a_file_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(IMAGE)[:40])
    assert png_size(path) == (7, 9)
    path.write_bytes(b"GIF89a" + bytes(40))
    assert png_size(path) is None
    path.write_bytes(encoded(IMAGE)[:20])
    assert png_size(path) is None
    os.mkfifo(tmp_path / "pipe.png")
    assert png_size(tmp_path / "pipe.png") is None
    assert png_size(tmp_path / "none.png") is None
