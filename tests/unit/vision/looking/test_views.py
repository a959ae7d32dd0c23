"""Views: what is shown, how large, and never larger than the budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.looking import (
    LEAST_PIXELS,
    change_map,
    difference_view,
    histogram_view,
    measure_tones,
    side_by_side,
    view_budget,
    zoomed,
)

CHECKS = Image.fromarray(np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 255).convert("RGB")


def test_a_view_costs_what_its_images_cost_within_limits() -> None:
    assert view_budget([Image.new("L", (100, 100))], 262144) == 10000
    # With the gap between them.
    assert view_budget([Image.new("L", (100, 100))] * 2, 262144) == 20400
    assert view_budget([Image.new("L", (8, 8))], 262144) == LEAST_PIXELS
    assert view_budget([Image.new("L", (3000, 3000))], 262144) == 262144


def test_exact_pixels_become_squares_of_their_very_colour() -> None:
    view, times = zoomed(CHECKS, (10, 10, 14, 12), 64 * 64, exact=True)
    assert (view.size, times) == ((64, 32), 16)
    assert np.array_equal(np.asarray(view), np.asarray(CHECKS)[10:12, 10:14].repeat(16, axis=0).repeat(16, axis=1))


def test_smooth_views_have_an_edge_that_is_none_of_the_two_colours() -> None:
    half = Image.new("RGB", (64, 64), "black")
    half.paste("white", (32, 0, 64, 64))
    view, times = zoomed(half, (24, 24, 40, 40), 64 * 64)
    assert (view.size, times) == ((64, 64), 4)
    assert len(view.getcolors(256) or ()) > 2
    exact = zoomed(half, (24, 24, 40, 40), 64 * 64, exact=True)[0]
    assert sorted(exact.getcolors() or ()) == [(2048, (0, 0, 0)), (2048, (255, 255, 255))]


@pytest.mark.parametrize(
    ("side", "size", "times"),
    [(64, 64, 1.0), (45, 45, 1.0), (42, 63, 1.5), (32, 64, 2.0), (20, 60, 3.0), (128, 64, 0.5), (1, 16, 16.0)],
)
def test_factors_are_simple(side: int, size: int, times: float) -> None:
    view, found = zoomed(Image.new("RGB", (200, 200)), (0, 0, side, side), 64 * 64)
    assert (view.size, found) == ((size, size), times)


def test_a_part_that_is_too_large_for_single_pixels_is_refused() -> None:
    with pytest.raises(ToolError, match="65x64 is too large to show each pixel: choose a box of 4096 pixels"):
        zoomed(Image.new("RGB", (200, 200)), (0, 0, 65, 64), 64 * 64, exact=True)


def test_clear_parts_are_shown_on_white() -> None:
    assert zoomed(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), (0, 0, 4, 4), 4096)[0].getcolors() == [(4096, (255,) * 3)]


@given(
    size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    budget=st.integers(LEAST_PIXELS, 40000),
    exact=st.booleans(),
)
def test_no_view_is_larger_than_its_budget(
    size: tuple[int, int], corner: tuple[float, float, float, float], budget: int, exact: bool
) -> None:
    width, height = size
    x0, y0 = int(corner[0] * (width - 1)), int(corner[1] * (height - 1))
    box = (x0, y0, x0 + 1 + int(corner[2] * (width - x0 - 1)), y0 + 1 + int(corner[3] * (height - y0 - 1)))
    image = Image.new("L", size)
    try:
        view, _ = zoomed(image, box, budget, exact=exact)
    except ToolError:
        assert exact
        return
    assert view.width * view.height <= budget
    row, _ = side_by_side([image, image.crop(box), image], budget)
    # A narrow column is at least one pixel wide, and the gaps are always there.
    assert row.width * row.height <= budget + 11 * row.height


def test_images_stand_in_a_row_with_grey_between() -> None:
    red, blue = Image.new("RGB", (10, 20), "red"), Image.new("RGB", (20, 10), "blue")
    view, times = side_by_side([red, blue], 104 * 40)
    # The second one is scaled to the height of the first: 10 + 40 wide, 4 between.
    assert (view.size, times) == ((2 * 50 + 4, 40), 2.0)
    pixels = np.asarray(view)
    assert pixels[:, :20].reshape(-1, 3).tolist() == [[255, 0, 0]] * 800
    assert pixels[:, 20:24].reshape(-1, 3).tolist() == [[128, 128, 128]] * 160
    assert pixels[:, 24:].reshape(-1, 3).tolist() == [[0, 0, 255]] * 3200


def test_changes_are_red_on_a_dark_image() -> None:
    before = Image.new("RGB", (8, 8), (100, 100, 100))
    after = before.copy()
    after.paste((100, 160, 100), (0, 0, 4, 4))
    shown = np.asarray(difference_view(after, change_map(before, after)))
    assert (shown[:4, :4] == (128 + 30, 0, 0)).all()
    assert (shown[4:] == 50).all()


def test_a_histogram_is_drawn_from_the_bottom_with_square_roots() -> None:
    image = Image.new("RGB", (10, 10), (50, 0, 0))
    image.paste((200, 0, 0), (0, 0, 5, 5))
    tones = measure_tones(image)
    assert tones is not None
    drawn = np.asarray(histogram_view(tones))
    assert drawn.shape == (96, 256, 3)
    # 100 pixels have no green: the full height. 75 and 25 are red: 83.1 and 48 of 96 rows.
    assert (drawn[:, 0] == (0, 255, 255)).all()
    assert [int((drawn[:, value, 0] == 255).sum()) for value in (50, 200, 100)] == [84, 48, 0]
    assert (drawn[48:, 200, 0] == 255).all()
