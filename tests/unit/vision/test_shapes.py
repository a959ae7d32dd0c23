"""Figures: geometry that the world and the engines share."""

from __future__ import annotations

import numpy as np
import pytest

from agentfly.vision.shapes import COLOURS, SHAPES, Figure, border_width, largest_inside, outline, signed_distance


@pytest.mark.parametrize("shape", SHAPES)
def test_distance_is_zero_on_the_outline_and_signed_around_it(shape: str) -> None:
    edge = outline(shape) * 10.0
    assert np.abs(signed_distance(shape, 10.0, edge)).max() < 1e-9
    assert (signed_distance(shape, 10.0, edge * 0.9) < 0).all()
    assert (signed_distance(shape, 10.0, edge * 1.1) > 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_figure_has_its_colour_inside_white_around_and_nothing_outside_its_box(shape: str) -> None:
    pixels = np.full((80, 90, 3), 100, dtype=np.uint8)
    figure = Figure(shape, "green", 40.0, 35.5, 18.0, 3.5)
    figure.draw(pixels)
    assert tuple(pixels[36, 40]) == COLOURS["green"]
    x0, y0, x1, y1 = figure.box
    changed = (pixels != 100).any(axis=2)
    assert changed[y0:y1, x0:x1].sum() == changed.sum()
    assert changed[:, x0:x1].any(axis=0)[[1, -2]].all()
    ring = pixels[(figure.depth(80, 90) > 0.6) & (figure.depth(80, 90) < 2.9)]
    assert (ring == 250).all()


def test_a_figure_over_the_edge_of_the_image_is_cut() -> None:
    pixels = np.zeros((20, 20, 3), dtype=np.uint8)
    Figure("star", "red", 0.0, 0.0, 8.0, 2.0).draw(pixels)
    Figure("star", "red", 99.0, 99.0, 8.0, 2.0).draw(pixels)
    assert tuple(pixels[0, 0]) == COLOURS["red"]
    assert not pixels[15:, 15:].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_largest_figure_in_its_own_outline_is_itself(shape: str) -> None:
    depth = Figure(shape, "red", 40.3, 41.2, 17.0, 3.0).depth(84, 84)
    assert largest_inside(depth, shape, 40.3, 41.2, 3.0) == pytest.approx(17.0, abs=0.4)


def test_nothing_fits_into_what_is_thinner_than_the_border() -> None:
    depth = Figure("circle", "red", 20.0, 20.0, 0.5, 1.0).depth(40, 40)
    assert largest_inside(depth, "square", 20.0, 20.0, 3.0) == 0.0


def test_the_border_grows_with_the_image() -> None:
    assert border_width(168, 200) == pytest.approx(3.36)
    assert border_width(20, 20) == 1.5
