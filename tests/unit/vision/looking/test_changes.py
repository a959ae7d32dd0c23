"""Changes of images: which pixels, how much, and where."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.looking import Change, Region, change_map, changed_regions, measure_change, scaled_to

GREY = Image.new("RGB", (20, 10), (100, 100, 100))


def pasted(*boxes: tuple[int, int, int, int], colour: tuple[int, int, int] = (100, 160, 90)) -> Image.Image:
    made = GREY.copy()
    for box in boxes:
        made.paste(colour, box)
    return made


def test_a_change_is_that_of_the_channel_that_changed_most() -> None:
    change = change_map(GREY, pasted((2, 3, 7, 7)))
    assert np.unique(change).tolist() == [0, 60]
    assert measure_change(change) == Change(20 / 200, 6.0, 60)
    assert changed_regions(change) == [Region((2, 3, 7, 7), 20)]


def test_the_change_inside_and_outside_of_a_mask() -> None:
    change, inside = change_map(GREY, pasted((0, 0, 10, 10))), np.zeros((10, 20), np.bool_)
    inside[:, :5] = True
    assert measure_change(change, inside) == Change(1.0, 60.0, 60)
    assert measure_change(change, ~inside) == Change(50 / 150, 20.0, 60)
    assert measure_change(change, np.zeros_like(inside)) == Change(0.0, 0.0, 0)


@pytest.mark.parametrize(("level", "share"), [(110, 0.0), (111, 1.0), (89, 1.0)])
def test_small_differences_are_no_change_but_count_in_the_mean(level: int, share: float) -> None:
    found = measure_change(change_map(GREY, Image.new("RGB", (20, 10), (level,) * 3)))
    assert found == Change(share, float(abs(level - 100)), abs(level - 100))


def test_scattered_pixels_are_told_by_the_box_of_all() -> None:
    speckled = GREY.copy()
    for place in ((3, 2), (9, 8)):
        speckled.putpixel(place, (255, 255, 255))
    assert changed_regions(change_map(GREY, speckled)) == [Region((3, 2, 10, 9), 2)]
    assert changed_regions(change_map(GREY, GREY)) == []


def test_transparency_alone_is_a_change() -> None:
    white, clear = Image.new("RGBA", (4, 4), (255, 255, 255, 255)), Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    assert measure_change(change_map(white, clear)) == Change(1.0, 255.0, 255)
    assert not change_map(white, Image.new("L", (4, 4), 255)).any()


def test_an_image_of_the_same_shape_is_scaled_and_another_is_refused() -> None:
    assert scaled_to(GREY, (61, 30), "img_2", "img_1").size == (61, 30)
    assert scaled_to(GREY, GREY.size, "img_2", "img_1") is GREY
    with pytest.raises(ToolError, match="img_2 is 20x10 and img_1 is 20x20: their shapes differ"):
        scaled_to(GREY, (20, 20), "img_2", "img_1")
