"""Draw the learning curve of a run as a PNG file, without a display.

It needs matplotlib, which comes with the extra [verl].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agentfly.errors import ConfigError, MissingExtraError
from agentfly.evaluators.bootstrap import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _MUTED, _GRID = "#1f2933", "#616e7c", "#e4e7eb"
_REWARD, _SUCCESS, _WARM, _TRAINED = "#2563eb", "#d97706", "#616e7c", "#1e3a8a"
_MAX_TICKS = 9

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StepRecord:
    """One step of training: means over the chains that were sampled in it.

    Attributes:
        step: number of the step, from 1.
        seconds: since training began, at the end of the step.
        reward: of the trainer, about 0 to 1.
        score: of the evaluator, 0 to 100.
        success: share of chains that count as done, 0 to 1.
        tool_calls: calls per chain.
        extra: further figures of the step, by name.
    """

    step: int
    seconds: float
    reward: float
    score: float
    success: float
    tool_calls: float
    extra: Mapping[str, float] = field(default_factory=dict)


def learning_curve(
    steps: Sequence[StepRecord],
    path: Path,
    *,
    title: str,
    warm_start: Estimate | None = None,
    trained: Estimate | None = None,
) -> Path:
    """Draw reward and success of the sampled chains against steps and minutes.

    Everything is on one scale of 0 to 100: reward times 100, success in per cent, held-out scores as they are.

    Args:
        steps: in order, at least one.
        path: of the PNG, 1800 x 960 pixels; legible at half that size.
        title: one line.
        warm_start: held-out score (0 to 100) before training, drawn as a line with its 95 % interval.
        trained: held-out score after training.

    Returns:
        The path.

    Raises:
        ConfigError: there is no step.
        MissingExtraError: matplotlib is not installed.
    """
    if not steps:
        raise ConfigError("a learning curve needs at least one step: the run recorded none")
    figure = _new_figure()
    axes = figure.add_axes((0.075, 0.175, 0.775, 0.655))
    _draw_series(axes, steps)
    marks = [("warm start", warm_start, _WARM), ("trained", trained, _TRAINED)]
    _draw_held_out(axes, [(name, value, colour) for name, value, colour in marks if value is not None])
    _style_axes(axes, steps, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def smooth(values: Floats) -> Floats:
    """Return the Gaussian moving mean of a series, shape (n,), a fifteenth of it wide. NaN does not count."""
    position = np.arange(values.size)
    width = max(1.0, values.size / 15)
    weights = np.exp(-0.5 * ((position[:, None] - position[None, :]) / width) ** 2)
    known = np.isfinite(values)
    total = weights @ known.astype(np.float64)
    return (weights @ np.where(known, values, 0.0)) / np.where(total > 0, total, np.nan)


def _new_figure() -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as fault:
        raise MissingExtraError("the learning curve", "verl") from fault
    # No pyplot: its global state would outlive the call and pick a display.
    figure = Figure(figsize=(9, 4.8), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _draw_series(axes: Axes, steps: Sequence[StepRecord]) -> None:
    """Draw reward and success: each step as a dot, the moving mean as a line."""
    x = np.array([record.step for record in steps], np.float64)
    marker = "o" if x.size == 1 else None
    reward = np.array([record.reward for record in steps], np.float64)
    success = np.array([record.success for record in steps], np.float64)
    for values, colour, label in ((reward, _REWARD, "reward × 100"), (success, _SUCCESS, "success, % of chains")):
        axes.plot(x, 100 * values, "o", color=colour, markersize=3.2, alpha=0.35, markeredgewidth=0, zorder=2)
        axes.plot(x, smooth(100 * values), marker=marker, color=colour, linewidth=2.4, label=label, zorder=3)


def _draw_held_out(axes: Axes, marks: Sequence[tuple[str, Estimate, str]]) -> None:
    for _, value, colour in marks:
        axes.axhspan(value.low, value.high, color=colour, alpha=0.10, linewidth=0, zorder=0)
        axes.axhline(value.mean, color=colour, linewidth=1.3, linestyle=(0, (5, 3)), zorder=1)
    low, high = axes.get_ylim()
    gap = 0.115 * (high - low)
    below: float | None = None
    for name, value, colour in sorted(marks, key=lambda mark: mark[1].mean):
        height = value.mean if below is None else max(value.mean, below + gap)
        below = height
        axes.annotate(
            f"{name} {value.mean:.1f}\nheld-out score",
            (1.0, height),
            xycoords=axes.get_yaxis_transform(),
            xytext=(7, 0),
            textcoords="offset points",
            color=colour,
            fontsize=9.5,
            va="center",
            annotation_clip=False,
        )


def _style_axes(axes: Axes, steps: Sequence[StepRecord], title: str) -> None:
    """Set title, axes and legend."""
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=_INK, pad=30, parse_math=False)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, frameon=False, fontsize=10, labelcolor=_INK)
    # Few enough ticks for labels of two lines, at round numbers where there are such steps.
    least = (steps[-1].step - steps[0].step + 1) / _MAX_TICKS
    every = next(size * 10**power for power in range(12) for size in (1, 2, 5) if size * 10**power >= least)
    shown = [record for record in steps if record.step % every == 0] or steps[:1]
    axes.set_xticks([record.step for record in shown])
    axes.set_xticklabels([f"{record.step}\n{record.seconds / 60:.1f} min" for record in shown])
    axes.set_xlabel("training step, and minutes since training began", fontsize=10, color=_MUTED, labelpad=7)
    axes.set_ylabel("points of 100, or %", fontsize=10, color=_MUTED)
    if len(steps) == 1:
        axes.set_xlim(steps[0].step - 1, steps[0].step + 1)
    else:
        axes.margins(x=0.02)
    axes.grid(axis="y", color=_GRID, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9.5, labelcolor=_MUTED)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
