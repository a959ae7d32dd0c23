"""Figures of masks, regions and tones, on images whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from agentfly.vision.looking import Region, measure_mask, measure_tones, regions_of


def mask(*boxes: tuple[int, int, int, int], value: int = 255) -> Image.Image:
    made = Image.new("L", (40, 30))
    for box in boxes:
        made.paste(value, box)
    return made


def test_a_mask_in_figures() -> None:
    found = measure_mask(mask((4, 5, 14, 9), (20, 5, 30, 9)))
    assert (found.area, found.share, found.box) == (80, 80 / 1200, (4, 5, 30, 9))
    assert (found.centroid, found.parts, found.peak) == ((16.5, 6.5), 2, 255)


def test_parts_that_touch_at_a_corner_are_one() -> None:
    assert measure_mask(mask((0, 0, 3, 3), (3, 3, 6, 6))).parts == 1


def test_a_faint_mask_is_empty_and_its_peak_is_known() -> None:
    found = measure_mask(mask((0, 0, 9, 9), value=127))
    assert (found.area, found.share, found.box, found.centroid, found.parts, found.peak) == (0, 0.0, None, None, 0, 127)


def test_regions_come_by_size_then_by_place_and_thin_ones_are_left_out() -> None:
    inside = np.asarray(mask((1, 1, 4, 4), (30, 20, 40, 30), (10, 1, 13, 4), (0, 10, 40, 12), (20, 20, 21, 21))) > 0
    found, left_out = regions_of(inside)
    assert found == [Region((30, 20, 40, 30), 100), Region((1, 1, 4, 4), 9), Region((10, 1, 13, 4), 9)]
    assert left_out == 2
    assert regions_of(inside, min_area=10) == ([Region((30, 20, 40, 30), 100)], 4)
    assert found[1].moved(10, 20) == Region((11, 21, 14, 24), 9)


def test_a_region_at_the_edge_needs_its_square_inside_the_image() -> None:
    inside = np.zeros((10, 10), np.bool_)
    inside[0:2, 0:10] = True
    assert regions_of(inside) == ([], 1)
    inside[2] = True
    assert regions_of(inside) == ([Region((0, 0, 10, 3), 30)], 0)


def test_tones_of_two_parts() -> None:
    image = Image.new("RGB", (20, 10), (0, 0, 0))
    image.paste((255, 128, 0), (12, 0, 20, 10))
    found = measure_tones(image)
    assert found is not None
    # Luma of (255, 128, 0): 0.299 * 255 + 0.587 * 128 = 151.4.
    assert (found.mean, found.percentiles) == (60.4, (0, 0, 151))
    assert found.rgb == (102.0, 51.2, 0.0)
    assert (found.saturation, found.black, found.white) == (0.4, 0.6, 0.0)
    assert found.counts.sum(axis=1).tolist() == [200, 200, 200]
    assert (found.counts[0, 255], found.counts[1, 128], found.counts[2, 0]) == (80, 80, 200)


def test_tones_are_those_of_visible_pixels() -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert measure_tones(image) is None
    image.paste((255, 255, 255, 255), (0, 0, 1, 1))
    found = measure_tones(image)
    assert found is not None
    assert (found.mean, found.white) == (255.0, 1.0)


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_grey_images_have_three_equal_channels(mode: str) -> None:
    image = Image.new(mode, (4, 4), 100 if mode == "L" else 100 << 8)
    found = measure_tones(image)
    assert found is not None
    assert (found.rgb, found.saturation) == ((100.0, 100.0, 100.0), 0.0)
