"""Line charts as SVG, drawn on the server: they need no script, and look the same in an export."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 320, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 8, 20
_MOST_POINTS = 400  # of a line: more than there are pixels


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: shown name.
        points: x and y; points that are not finite are left out.
    """

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart, ready for `macros/chart.html.jinja`: places in pixels.

    Attributes:
        title: of the chart.
        lines: label, class of the colour ("c0" to "c5"), points of the polyline, and the points themselves as
            (x, y, text) for reading them off.
        x_ticks, y_ticks: place and text.
    """

    title: str
    lines: tuple[tuple[str, str, str, tuple[tuple[float, float, str], ...]], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT


def chart(title: str, lines: Sequence[Line], y_range: tuple[float, float] | None = None) -> Chart | None:
    """Return a chart of lines over one x axis, such as the training step; None where there is no point.

    Args:
        title: of the chart.
        lines: at most six have colours of their own.
        y_range: lowest and highest y; those of the points when None.
    """
    kept = [Line(line.label, _thinned(line.points)) for line in lines]
    points = [point for line in kept for point in line.points]
    if not points:
        return None
    x_ticks, x_low, x_high = _ticks(min(x for x, _ in points), max(x for x, _ in points), whole=True)
    low, high = y_range or (min(y for _, y in points), max(y for _, y in points))
    y_ticks, y_low, y_high = _ticks(low, high)

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)
        return round(across, 1), round(HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM), 1)

    drawn = []
    for number, line in enumerate(kept):
        placed = tuple((*place(x, y), f"{x:g}: {number_text(y)}") for x, y in line.points)
        path = " ".join(f"{x},{y}" for x, y, _ in placed)
        drawn.append((line.label, f"c{number % 6}", path, placed))
    return Chart(
        title,
        tuple(drawn),
        tuple((place(x, y_low)[0], f"{x:g}") for x in x_ticks),
        tuple((place(x_low, y)[1], number_text(y)) for y in y_ticks),
    )


def number_text(value: float | None) -> str:
    """Return a number in few digits, "–" for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{value:.2g}"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    every = math.ceil(len(finite) / _MOST_POINTS) or 1
    kept = finite[::every]
    # The newest point is the one that people look for.
    return kept if not finite or kept[-1] == finite[-1] else [*kept, finite[-1]]


def _ticks(low: float, high: float, *, whole: bool = False) -> tuple[list[float], float, float]:
    """Return round values from about `low` to `high`, and the ends of the axis."""
    span = high - low
    if span <= 0:
        span = abs(low) or 1.0
        low, high = low - span / 2, high + span / 2
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    step = max(1.0, round(step)) if whole else step
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = [round(n * step, 12) for n in range(first, last + 1)]
    return ([t for t in ticks if low <= t <= high], low, high) if whole else (ticks, ticks[0], ticks[-1])
