"""Line charts as SVG, drawn on the server: they need no script, and look the same in an export.

`charts.js` adds the values under the pointer. It reads them off the drawn places, so a chart carries its points once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 20
COLOURS = 6
_MOST_POINTS = 120  # of a line: as many as can be told apart
_LEAST_SPAN = 1e-300  # of an axis: smaller numbers have too few bits to be divided
_DOTS = 24  # up to so many points each has a dot
_SMOOTH_FROM = 40  # points from which on a noisy line gets a moving mean

Point = tuple[float, float]
Unit = Literal["", "%", "s"]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: shown name.
        points: x and y; points that are not finite are left out.
        band: lowest and highest y of each point, such as those of an interval; empty for none.
        dashed: for a line to compare with, such as another run's.
        noisy: of many points the moving mean is drawn, with the points faintly behind it where that is legible.
    """

    label: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float]] = ()
    dashed: bool = False
    noisy: bool = False


@dataclass(frozen=True)
class DrawnLine:
    """A line in pixels.

    Attributes:
        label: shown name.
        colour: class, "c0" to "c5".
        path: points of the polyline.
        faint: points of the noisy line behind it; "" for none.
        band: points of the polygon around it; "" for none.
        dots: places of single points; empty where there are many.
        last: text of the newest value.
        dashed: see `Line`.
    """

    label: str
    colour: str
    path: str
    faint: str
    band: str
    dots: tuple[Point, ...]
    last: str
    dashed: bool


@dataclass(frozen=True)
class Chart:
    """A chart, ready for `macros/chart.html.jinja`: places in pixels.

    Attributes:
        title: of the chart.
        lines: see `DrawnLine`.
        x_ticks, y_ticks: place and text.
        x_range, y_range: values at the ends of the axes.
        unit: of the values; "%" for shares from 0 to 1.
        about: what is shown, in a few words.
        x_label: what the x axis counts.
    """

    title: str
    lines: tuple[DrawnLine, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_range: Point
    y_range: Point
    unit: Unit = ""
    about: str = ""
    x_label: str = "step"
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def words(self) -> str:
        """The chart in words, for those who do not see it."""
        return f"{self.title}. " + "; ".join(f"{line.label or self.title} now {line.last}" for line in self.lines)


def chart(
    title: str,
    lines: Sequence[Line],
    y_range: tuple[float, float] | None = None,
    *,
    unit: Unit = "",
    about: str = "",
    x_label: str = "step",
) -> Chart | None:
    """Return a chart of lines over one x axis, such as the training step; None where there is no point.

    Args:
        title: of the chart.
        lines: at most six have colours of their own.
        y_range: lowest and highest y; those of the points when None.
        unit: of the values; shares from 0 to 1 are shown in "%".
        about: what is shown, in a few words.
        x_label: what the x axis counts.
    """
    kept = [(number, line, *found) for number, line in enumerate(lines) if (found := _finite(line))[0]]
    if not kept:
        return None
    xs = [x for _, _, points, _ in kept for x, _ in points]
    x_ticks, x_low, x_high = _ticks(min(xs), max(xs), whole=True)
    ends = [y for *_, points, band in kept for y in [*(y for _, y in points), *(end for pair in band for end in pair)]]
    low, high = y_range or (min(ends), max(ends))
    y_ticks, y_low, y_high = _ticks(low, high)

    def place(x: float, y: float) -> Point:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (min(max(y, y_low), y_high) - y_low) / (y_high - y_low)
        return round(across, 1), round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1)

    means = any(_is_smoothed(line, points) for _, line, points, _ in kept)
    noise = len(kept) <= 2  # behind many lines theirs would hide them
    drawn = (_draw(line, number, points, band, place, unit, noise=noise) for number, line, points, band in kept)
    return Chart(
        title,
        tuple(drawn),
        tuple((place(x, y_low)[0], f"{x:.10g}") for x in x_ticks),
        tuple((place(x_low, y)[1], value_text(y, unit)) for y in y_ticks),
        (x_low, x_high),
        (y_low, y_high),
        unit,
        f"{about}; moving mean" if means else about,
        x_label,
    )


def _is_smoothed(line: Line, points: Sequence[Point]) -> bool:
    return line.noisy and len(points) >= _SMOOTH_FROM


def _draw(
    line: Line,
    number: int,
    found: Sequence[Point],
    band: Sequence[tuple[float, float]],
    place: Callable[[float, float], Point],
    unit: Unit,
    *,
    noise: bool,
) -> DrawnLine:
    """Return a line in pixels, its moving mean if it is noisy.

    Args:
        line: what is drawn.
        number: of the line in its chart.
        found, band: its points, and an interval around each, or none.
        place: gives the pixel of a point.
        unit: of its values.
        noise: draw the points behind their moving mean.
    """
    mean = smoothed(found) if _is_smoothed(line, found) else found
    shown = [place(x, y) for x, y in thinned(mean)]
    # A band has a point for each of the line's, so both are thinned alike.
    every = max(1, len(found) // 80)
    edges = [(x, *ends) for (x, _), ends in zip(found, band, strict=True)][::every] if band else []
    around = [place(x, high) for x, _, high in edges] + [place(x, low) for x, low, _ in reversed(edges)]
    return DrawnLine(
        line.label,
        f"c{number % COLOURS}",
        _path(shown),
        _path([place(x, y) for x, y in thinned(found)]) if mean is not found and noise else "",
        _path(around),
        tuple(shown) if len(shown) <= _DOTS else (),
        value_text(found[-1][1], unit),
        line.dashed or number >= COLOURS,
    )


def sparkline(points: Sequence[Point], width: int = 120, height: int = 24) -> str:
    """Return the points of a small polyline without axes; "" where there are fewer than two points."""
    found = thinned([point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])], 24)
    if len(found) < 2:
        return ""
    (x_low, x_high), (y_low, y_high) = ((min(axis), max(axis)) for axis in zip(*found, strict=True))
    span_x, span_y = (x_high - x_low) or 1.0, y_high - y_low
    if not math.isfinite(span_y):
        return ""
    level = 0.5 if span_y == 0 else None
    return _path(
        [
            (
                round((x - x_low) / span_x * (width - 2) + 1, 1),
                round(height - 2 - (level if level is not None else (y - y_low) / span_y) * (height - 4), 1),
            )
            for x, y in found
        ]
    )


def number_text(value: float | None) -> str:
    """Return a number in few digits, "–" for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{value:.2g}"


def value_text(value: float | None, unit: Unit = "") -> str:
    """Return a value with its unit; shares become per cent."""
    if value is None or not math.isfinite(value):
        return "–"
    if unit == "%":
        return f"{number_text(round(100 * value, 1))} %"
    return f"{number_text(value)} s" if unit == "s" else number_text(value)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Return the moving mean of points: a window of a fifteenth of them to either side, shorter at the ends."""
    half = max(1, len(points) // 15)
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    means = []
    for place, (x, _) in enumerate(points):
        start, end = max(0, place - half), min(len(points), place + half + 1)
        means.append((x, (sums[end] - sums[start]) / (end - start)))
    return means


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return at most about so many points: the lowest and the highest of each stretch, so that peaks stay."""
    if len(points) <= most:
        return list(points)
    size = len(points) / (most / 2)
    kept: list[Point] = []
    for number in range(most // 2):
        stretch = points[int(number * size) : int((number + 1) * size)]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    # The newest point is the one that people look for.
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _finite(line: Line) -> tuple[list[Point], list[tuple[float, float]]]:
    """Return the points of a line that can be drawn, and the ends of their bands."""
    limit = 1e300  # the difference of two larger numbers may be infinite
    bands = line.band or [(y, y) for _, y in line.points]
    both = [
        (point, band)
        for point, band in zip(line.points, bands, strict=True)
        if all(math.isfinite(v) and abs(v) < limit for v in (*point, *band))
    ]
    return [point for point, _ in both], [band for _, band in both] if line.band else []


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _ticks(low: float, high: float, *, whole: bool = False) -> tuple[list[float], float, float]:
    """Return round values from about `low` to `high`, and the ends of the axis."""
    span = high - low
    if span <= max(abs(low) * 1e-9, _LEAST_SPAN):
        span = 2.0 if whole else abs(low) if abs(low) > _LEAST_SPAN else 1.0
        low, high = low - span / 2, high + span / 2
        # A level that is never left, such as a share of 0.
        low, high = (0.0, span * 1.5 if low > 0 else span) if low >= -span / 2 and not whole else (low, high)
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor >= rough)
    step = max(1.0, round(step)) if whole else step
    first, last = math.floor(low / step), math.ceil(high / step)
    # Without the last bits of a product such as 3 x 0.1; a loss of 1e-17 has its axis all the same.
    ticks = [float(f"{n * step:.12g}") for n in range(first, last + 1)]
    return ([t for t in ticks if low <= t <= high], low, high) if whole else (ticks, ticks[0], ticks[-1])
