from __future__ import annotations

import math

import pytest

from agentfly.viewer.charts import Line, chart, number_text, smoothed, sparkline, thinned, value_text


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in path.split())]


def test_points_are_placed_from_left_to_right_and_upwards() -> None:
    made = chart("t", [Line("a", [(1, 0.0), (2, 1.0)])])
    assert made is not None
    (x0, y0), (x1, y1) = places(made.lines[0].path)
    assert (x0, x1) == (40, made.width - 8)
    assert y0 > y1


def test_values_that_are_no_numbers_are_left_out() -> None:
    odd = [(1, math.nan), (2, 3.0), (math.inf, 1.0), (3, -math.inf), (4, 1e308)]
    made = chart("t", [Line("a", odd), Line("empty", [])])
    assert made is not None
    assert len(places(made.lines[0].path)) == 1
    assert len(made.lines) == 1
    assert chart("t", [Line("a", [(1, math.nan)])]) is None


@pytest.mark.parametrize("last", [1, 2, 3, 7, 24, 500, 1999])
def test_steps_are_whole_ticks(last: int) -> None:
    made = chart("t", [Line("a", [(float(step), 0.5) for step in range(1, last + 1)])])
    assert made is not None
    texts = [text for _, text in made.x_ticks]
    assert texts
    assert all(text.lstrip("-").isdigit() for text in texts)
    assert len(set(texts)) == len(texts) <= 8


def test_a_share_that_is_always_0_has_an_axis_from_0() -> None:
    made = chart("t", [Line("a", [(1, 0.0), (2, 0.0)])], unit="%")
    assert made is not None
    assert made.y_range[0] == 0
    assert made.y_ticks[0][1] == "0 %"


@pytest.mark.parametrize("size", [5e-324, 1e-320, 3e-17, 1e-11, 1e299])
@pytest.mark.parametrize("values", [(1, -1), (1, 1), (0, 1), (-1, -1)])
def test_numbers_of_any_size_have_an_axis(size: float, values: tuple[int, int]) -> None:
    made = chart("t", [Line("a", [(step, size * value) for step, value in enumerate(values, 1)])])
    assert made is not None
    assert made.y_range[0] < made.y_range[1]
    assert len({y for y, _ in made.y_ticks}) == len(made.y_ticks) > 1
    heights = [y for _, y in places(made.lines[0].path)]
    if size == 3e-17 and values == (1, -1):  # a loss that is 0 but for the last bits
        assert heights[0] < heights[1]


def test_peaks_and_the_newest_point_survive_thinning() -> None:
    points = [(float(x), 1000.0 if x == 777 else float(x % 7)) for x in range(5000)]
    kept = thinned(points)
    assert (777.0, 1000.0) in kept
    assert kept[-1] == points[-1]
    assert len(kept) <= 130
    assert kept == sorted(kept)


def test_noise_becomes_a_moving_mean_that_is_faint_behind_few_lines() -> None:
    noisy = [(float(x), 0.5 + (0.4 if x % 2 else -0.4)) for x in range(100)]
    one = chart("t", [Line("a", noisy, noisy=True)], (0, 1))
    assert one is not None
    assert one.lines[0].faint
    assert "moving mean" in one.about
    heights = [y for _, y in places(one.lines[0].path)]
    assert max(heights) - min(heights) < 20  # of the 98 of the points
    many = chart("t", [Line(name, noisy, noisy=True) for name in "abc"])
    assert many is not None
    assert not any(line.faint for line in many.lines)
    assert chart("t", [Line("a", noisy[:10], noisy=True)]).lines[0].faint == ""  # type: ignore[union-attr]


def test_a_mean_over_few_points_is_that_of_its_neighbours() -> None:
    assert smoothed([(0, 0.0), (1, 3.0), (2, 6.0)]) == [(0, 1.5), (1, 3.0), (2, 4.5)]


def test_a_band_goes_around_its_line() -> None:
    made = chart("t", [Line("a", [(1, 1.0), (2, 2.0)], [(0.0, 3.0), (1.0, 4.0)])])
    assert made is not None
    assert len(places(made.lines[0].band)) == 4
    assert made.y_range == (0.0, 4.0)


def test_values_outside_the_range_stay_inside_the_chart() -> None:
    made = chart("t", [Line("a", [(1, -50.0), (2, 500.0)])], (0, 100))
    assert made is not None
    assert all(8 <= y <= made.height - 20 for _, y in places(made.lines[0].path))


def test_the_words_tell_the_newest_values() -> None:
    made = chart("Success", [Line("named", [(1, 0.2), (2, 0.75)])], unit="%")
    assert made is not None
    assert made.words == "Success. named now 75 %"


def test_a_sparkline_of_one_value_is_none_and_of_equal_values_a_level() -> None:
    assert sparkline([(1, 2.0)]) == ""
    assert {y for _, y in places(sparkline([(1, 2.0), (2, 2.0), (3, 2.0)]))} == {12.0}
    assert sparkline([(1, 1e308), (2, -1e308)]) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (0, "0"), (0.123456, "0.123"), (123.4, "123"), (1e-7, "1e-07"), (123456, "1.2e+05")],
)
def test_numbers_have_few_digits(value: float | None, text: str) -> None:
    assert number_text(value) == text


def test_units_follow_their_numbers() -> None:
    assert value_text(0.345, "%") == "34.5 %"
    assert value_text(2.5, "s") == "2.5 s"
    assert value_text(math.inf, "%") == "–"
