"""Masks as they are published, in every polarity."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agentfly.datasets.public.columns import mask_from_cutout, mask_from_runs
from tests.unit.datasets.example_images import cutout, encoded, make_image, white_box

BOX = (3, 2, 9, 8)


def test_a_transparent_region_is_what_must_change_even_where_the_image_is_black() -> None:
    hole = np.array(cutout(make_image(), BOX))
    hole[12:, :, :3] = 0
    assert white_box(mask_from_cutout(encoded(Image.fromarray(hole)))) == BOX


def test_a_hole_that_lost_its_transparency_is_black() -> None:
    for image in (cutout(make_image(), BOX).convert("RGB"), Image.fromarray(np.array(make_image().convert("RGBA")))):
        pixels = np.array(image)
        pixels[2:8, 3:9, :3] = 0
        assert white_box(mask_from_cutout(Image.fromarray(pixels))) == BOX


@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_runs_mark_exactly_their_pixels(pixels: list[bool]) -> None:
    runs = " ".join(f"{index} 1" for index, marked in enumerate(pixels) if marked)
    mask = np.asarray(mask_from_runs(runs, (4, 3)))
    assert (mask == 255).ravel().tolist() == pixels
    assert mask.shape == (3, 4)


def test_a_run_beyond_the_end_is_cut() -> None:
    assert np.asarray(mask_from_runs("10 99", (4, 3))).ravel().tolist() == [0] * 10 + [255] * 2
