"""A mask is read for what it is, in each form in which masks are kept; what cannot be one is refused."""

from __future__ import annotations

import itertools
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw, ImageFilter

from agentfly.datasets import StickerWorld, load_tasks
from agentfly.errors import ImageError
from agentfly.images import load_image, load_mask, read_mask
from agentfly.vision.remote.adapters import encode_mask

SIZE = (48, 32)
BOX = (12, 8, 30, 20)


def shape(inside: int = 255, outside: int = 0) -> Image.Image:
    mask = Image.new("L", SIZE, outside)
    mask.paste(inside, BOX)
    return mask


def saved(image: Image.Image, form: str = "PNG", **options: int) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def palette(*indices: int, index: tuple[int, int, int] = (128, 0, 0)) -> Image.Image:
    """A mask as Pascal VOC keeps it: numbers of classes in a palette, 255 for the border of an object."""
    image = Image.new("P", SIZE, 0)
    colours = bytearray(768)
    colours[3:6], colours[45:48], colours[765:768] = bytes(index), bytes((192, 128, 128)), bytes((224, 224, 192))
    image.putpalette(bytes(colours))
    for place, number in enumerate(indices):
        image.paste(number, (BOX[0] + place, BOX[1] + place, BOX[2] - place, BOX[3] - place))
    return image


def layer(colour: tuple[int, int, int, int], ground: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGBA", SIZE, ground)
    image.paste(colour, BOX)
    return image


PHOTO = load_image(next(load_tasks("data/photos_sample.parquet")).images[0]).resize(SIZE)


def cutout(hole: tuple[int, int, int, int]) -> Image.Image:
    """A photograph with a hole, as OpenAI's API takes it."""
    image = PHOTO.convert("RGBA")
    image.paste(hole, BOX)
    return image


@pytest.mark.parametrize(
    ("source", "form"),
    [
        (saved(shape()), "white marks"),
        (saved(shape().convert("1")), "white marks"),
        (saved(shape().convert("RGB")), "white marks"),
        (saved(shape().convert("RGBA")), "white marks"),
        (saved(shape().convert("P")), "white marks"),
        (shape(), "white marks"),
        (saved(shape(1)), "1 marks"),
        (saved(shape(1).convert("RGB")), "1 marks"),
        (saved(Image.fromarray(np.asarray(shape(1)).astype(np.uint16))), "1 marks"),
        (saved(Image.fromarray(np.asarray(shape(1)).astype(np.int32)), "TIFF"), "1 marks"),
        (Image.fromarray(np.asarray(shape()) > 0), "white marks"),
        (saved(Image.fromarray(np.asarray(shape()).astype(np.uint16) * 257)), "white marks"),
        (saved(shape(7)), "numbers"),
        (saved(Image.fromarray(np.asarray(shape(15)).astype(np.uint16))), "numbers"),
        (saved(palette(255, 15)), "every colour but black"),
        (saved(palette(15, 1)), "every colour but black"),
        (saved(Image.frombytes("L", SIZE, palette(255, 15).tobytes())), "numbers"),
        (saved(palette(15), "GIF"), "every colour but black"),
        (saved(layer((255, 255, 255, 255), (0, 0, 0, 0))), "shape on a transparent ground"),
        (saved(layer((255, 255, 255, 255), (255, 255, 255, 0))), "shape on a transparent ground"),
        (saved(layer((255, 0, 0, 120), (0, 0, 0, 0))), "shape on a transparent ground"),
        (saved(layer((255, 255, 255, 255), (255, 255, 255, 0)).convert("LA")), "shape on a transparent ground"),
        (saved(layer((0, 0, 0, 0), (0, 0, 0, 255))), "OpenAI"),
        (saved(layer((255, 255, 255, 0), (255, 255, 255, 255))), "OpenAI"),
        (saved(layer((0, 0, 0, 0), (255, 255, 255, 255))), "OpenAI"),
        (saved(cutout((0, 0, 0, 0))), "OpenAI"),
        (saved(cutout((255, 255, 255, 0)), "WEBP", lossless=1), "OpenAI"),
        (encode_mask(shape(), "transparent"), "OpenAI"),
        (encode_mask(shape(), "white"), "white marks"),
    ],
)
def test_each_form_marks_the_same_box(source: bytes | Image.Image, form: str) -> None:
    loaded = load_mask(source)
    assert (loaded.mode, loaded.size) == ("L", SIZE)
    assert loaded.tobytes() == shape().tobytes()
    if isinstance(source, bytes) and not form.startswith(("1 marks", "numbers")):
        assert form in read_mask(load_image(source)).form


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_mask_that_went_through_jpeg_keeps_its_sides(quality: int) -> None:
    for mode in ("L", "RGB"):
        mask = np.asarray(load_mask(saved(shape().convert(mode), "JPEG", quality=quality)))
        assert (mask > 127).tobytes() == (np.asarray(shape()) > 127).tobytes()


@pytest.mark.parametrize("value", [100, 128, 200, 255])
def test_an_even_grey_and_soft_edges_stay_as_they_are(value: int) -> None:
    soft = shape().filter(ImageFilter.GaussianBlur(3))
    slope = Image.linear_gradient("L")
    for mask in (soft, slope, slope.rotate(90), shape(value) if value > 127 else soft):
        assert load_mask(saved(mask)).tobytes() == mask.tobytes()


def test_everything_and_nothing_are_masks() -> None:
    for whole in (Image.new("L", SIZE, 255), Image.new("L", SIZE, 1), Image.new("RGBA", SIZE, (9, 9, 9, 0))):
        assert read_mask(whole).image.getextrema() == (255, 255)
    black = read_mask(Image.new("RGB", SIZE))
    assert (black.image.getextrema(), black.form) == ((0, 0), "black: nothing changes")


def test_an_image_that_is_almost_opaque_is_no_cutout() -> None:
    mask = shape().convert("RGBA")
    mask.putpixel((0, 0), (0, 0, 0, 254))
    assert read_mask(mask).image.tobytes() == shape().tobytes()


def test_a_declared_black_is_no_hole(tmp_path: Path) -> None:
    shape().convert("RGB").save(tmp_path / "m.png", transparency=(0, 0, 0))
    assert load_mask(tmp_path / "m.png").tobytes() == shape().tobytes()
    shape().save(tmp_path / "grey.png", transparency=0)
    assert load_mask(tmp_path / "grey.png").tobytes() == shape().tobytes()


def test_half_of_a_layer_in_one_colour_is_refused_as_nobody_can_tell() -> None:
    layer = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    layer.paste((255, 255, 255, 255), (0, SIZE[1] // 3, *SIZE))
    with pytest.raises(ImageError, match="which part changes"):
        read_mask(layer)


def test_numbers_of_many_classes_all_change() -> None:
    mask = shape(20)
    mask.putpixel((BOX[0], BOX[1]), 150)
    assert read_mask(mask).image.tobytes() == shape().tobytes()


def photographs() -> list[Image.Image]:
    tasks = itertools.islice(load_tasks("data/photos_sample.parquet"), 12)
    return [load_image(task.images[0]) for task in tasks] + [
        load_image(StickerWorld(168).task(index, "train").images[0]) for index in range(3)
    ]


@pytest.mark.slow
def test_photographs_are_refused_in_every_mode() -> None:
    for photo in photographs():
        large = photo.resize((700, 500), Image.Resampling.BICUBIC)
        indexed = Image.open(BytesIO(saved(photo.quantize(64), "GIF")))
        for image in (photo, large, photo.convert("RGBA"), indexed):
            with pytest.raises(ImageError, match="give a PNG that is white where"):
                load_mask(image)


@pytest.mark.slow
def test_most_grey_photographs_are_refused_and_no_soft_mask_is() -> None:
    grey = [photo.convert("L") for photo in photographs()]
    faults = []
    for image in grey:
        try:
            load_mask(image)
        except ImageError as fault:
            faults.append(str(fault))
    assert len(faults) >= len(grey) - 2
    assert all("grey image, not a mask" in fault for fault in faults)
    for side, blur in itertools.product((48, 64, 300, 900), (0.0, 0.01, 0.04, 0.1)):
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).ellipse((side // 5, side // 4, side * 3 // 4, side * 2 // 3), fill=255)
        for quality in (0, 40, 90):
            soft = mask.filter(ImageFilter.GaussianBlur(blur * side))
            load_mask(saved(soft, "JPEG", quality=quality) if quality else soft)


@pytest.mark.parametrize("mask", [shape(2, 1), Image.merge("RGB", (shape(200, 90), shape(), shape(0, 255)))])
def test_a_mask_without_black_does_not_say_what_stays(mask: Image.Image) -> None:
    with pytest.raises(ImageError, match="nothing says what stays: give a PNG"):
        read_mask(mask)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(4)))
    | arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3)))
    | arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=24))
    | arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=24))
    | arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=24))
    | arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=24))
    | arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=24))
)
def test_any_image_is_a_mask_or_refused_and_what_was_read_is_read_again_alike(values: np.ndarray) -> None:
    try:
        mask = load_mask(Image.fromarray(values))
    except ImageError:
        return
    assert (mask.mode, mask.size) == ("L", values.shape[1::-1])
    assert load_mask(mask).tobytes() == mask.tobytes()


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.sampled_from([0, 255])))
def test_what_our_clients_send_a_server_reads_in_both_styles(values: np.ndarray) -> None:
    mask = Image.fromarray(values)
    for style in ("white", "transparent"):
        assert load_mask(encode_mask(mask, style)).tobytes() == mask.tobytes()
