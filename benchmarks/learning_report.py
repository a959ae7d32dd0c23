"""The results of `benchmarks/learning.py` as tables and plots. An interval is Student's t over the seeds."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from learning_results import ALL, Interval, Results, Run, interval

from agentfly.datasets import FAMILIES, RETOUCH_FAMILIES

# What is asked of the arms, seed by seed: the first against the second.
QUESTIONS = (
    ("grpo", "one_call"),
    ("ppo", "grpo"),
    ("turn_credit", "grpo"),
    ("no_tool_cost", "grpo"),
    ("turn_credit_no_tool_cost", "turn_credit"),
    ("judge_listwise", "judge_pointwise"),
    ("look", "no_look"),
    ("refill", "grpo"),
    ("curriculum", "grpo"),
    ("refill_curriculum", "grpo"),
)
# A type in which a look pays for a policy of this size, and one in which it costs a turn for nothing.
SEEN = ("tiny", "most")
# Task types that are shown together, by the name that their plots get.
WORLDS: Mapping[str, tuple[str, ...]] = {"": FAMILIES, "look-": SEEN, "retouch-": RETOUCH_FAMILIES}


def markdown(results: Results) -> str:
    """Tables of what was measured."""
    lines: list[str] = []
    for families in WORLDS.values():
        if results.arms(families):
            tables = (_arm_table, _question_table, _price_table, _tool_table)
            lines += [line for table in tables for line in (*table(results, families), "")]
    return "\n".join([*lines, *_look_table(results)]).strip() + "\n"


def _arm_table(results: Results, families: Sequence[str]) -> list[str]:
    columns = (ALL, *families)
    lines = [
        "Held-out success in per cent, before → after, mean ± 95 % over seeds:",
        "",
        "| arm | seeds | " + " | ".join(columns) + " | minutes |",
        "|---|" + "---|" * (len(columns) + 2),
    ]
    for arm, runs in results.arms(families).items():
        cells = []
        for family in columns:
            before, after = (interval(run.at(which, family) for run in runs) for which in (0, -1))
            cells.append(f"{before.mean:.0f} → {after}")
        minutes = statistics.fmean(run.minutes for run in runs)
        lines.append(f"| {arm} | {len(runs)} | {' | '.join(cells)} | {minutes:.1f} |")
    return lines


def _question_table(results: Results, families: Sequence[str]) -> list[str]:
    """Return the lead of arms over others and over their warm start: points of success after training, by seed."""
    columns, arms = (ALL, *families), results.arms(families)
    lines = [
        "Difference in points of held-out success, the same seeds compared, mean ± 95 %:",
        "",
        "| | seeds | " + " | ".join(columns) + " |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    for arm, runs in arms.items():
        gains = [interval(run.at(-1, family) - run.at(0, family) for run in runs) for family in columns]
        lines.append(f"| {arm} − warm start | {len(runs)} | {' | '.join(map(str, gains))} |")
    for first, second in QUESTIONS:
        others = {run.seed: run for run in arms.get(second, ())}
        pairs = [(run, others[run.seed]) for run in arms.get(first, ()) if run.seed in others]
        if pairs:
            gains = [interval(a.at(-1, family) - b.at(-1, family) for a, b in pairs) for family in columns]
            lines.append(f"| {first} − {second} | {len(pairs)} | {' | '.join(map(str, gains))} |")
    return lines


def _price_table(results: Results, families: Sequence[str]) -> list[str]:
    """Return what the tools of each arm did, and the price of a point of held-out success over all types."""
    rows = []
    for arm, runs in results.arms(families).items():
        known = [run for run in runs if run.steps and "tool_calls" in run.steps[0]]
        if not known:
            continue
        prices = [run.tool_seconds / gain for run in known if (gain := run.at(-1, ALL) - run.at(0, ALL)) > 0]
        values = (
            [run.total("replaced") for run in known],
            [run.total("tool_calls") for run in known],
            [run.tool_seconds for run in known],
            [100 * run.total("tool_seconds_discarded") / max(run.tool_seconds, 1e-9) for run in known],
        )
        price = interval(prices)
        known_price = f"{price.mean:.2f}" + ("" if math.isnan(price.half) else f" ± {price.half:.2f}")
        cells = [*(str(interval(each)) for each in values), known_price]
        rows.append(f"| {arm} | {len(known)} | {' | '.join(cells)} |")
    columns = ("groups replaced", "tool calls", "tool seconds", "of these discarded, %", "tool seconds a point")
    head = ["Tools in training, and the price of a point of held-out success over all types, mean ± 95 %:", ""]
    head += [f"| arm | seeds | {' | '.join(columns)} |", "|---|" + "---|" * (len(columns) + 1)]
    return [*head, *rows] if rows else []


def _tool_table(results: Results, families: Sequence[str]) -> list[str]:
    """Return the share of held-out chains that call a tool, before and after training, by task type."""
    rows = []
    for arm, runs in results.arms(families).items():
        used = [run.tools for run in runs if run.tools]
        names = sorted({tool for each in used for when in each.values() for tools in when.values() for tool in tools})
        for tool in names:
            cells = []
            for family in families:
                shares = [
                    statistics.fmean(100 * each.get(when, {}).get(family, {}).get(tool, 0.0) for each in used)
                    for when in ("before", "after")
                ]
                cells.append(" → ".join(f"{share:.0f}" for share in shares))
            rows.append(f"| {arm} | {tool} | {' | '.join(cells)} |")
    head = ["Share of held-out chains that call a tool, per cent, before → after:", ""]
    head += ["| arm | tool | " + " | ".join(families) + " |", "|---|---|" + "---|" * len(families)]
    return [*head, *rows] if rows else []


def _look_table(results: Results) -> list[str]:
    rows = []
    for arm, runs in results.arms().items():
        found = [run.blanked for run in runs if run.blanked is not None]
        if found:
            cells = [str(interval(100 * each[name] for each in found)) for name in ("seeing", "blanked")]
            rows.append(f"| {arm} | {len(found)} | {' | '.join(cells)} |")
    head = ["Success on *look* after training, per cent:", "", "| arm | seeds | seeing | grey images |"]
    return [*head, "|---|---|---|---|", *rows] if rows else []


def curves(results: Results, axis: str, path: Path, families: Sequence[str] = FAMILIES) -> Path:
    """Draw held-out success of every arm against "step" or "minutes", a panel a task type; a band is the interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: its global state would outlive the call and pick a display.
    figure = Figure(figsize=(11, 6.2), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for panel, family in itertools.zip_longest(panels, (ALL, *families)):
        if family is None:
            panel.set_visible(False)
            continue
        for number, (arm, runs) in enumerate(results.arms(families).items()):
            x, points = _series(runs, family, axis)
            colour = f"C{number}"
            panel.plot(x, [point.mean for point in points], "o-", color=colour, markersize=3, linewidth=1.8, label=arm)
            low, high = ([p.mean + sign * (0 if math.isnan(p.half) else p.half) for p in points] for sign in (-1, 1))
            panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        panel.set_title(family, loc="left", fontsize=11)
        panel.set_ylim(0, 100)
        panel.grid(axis="y", color="#e4e7eb")
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    figure.supxlabel("training step" if axis == "step" else "minutes of training", fontsize=10)
    figure.supylabel("held-out success, %", fontsize=10)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def _series(runs: Sequence[Run], family: str, axis: str) -> tuple[list[float], list[Interval]]:
    """Places and means over the seeds of one arm, for validations that all of its seeds have."""
    count = min(len(run.validations) for run in runs)
    x = [statistics.fmean(getattr(run.validations[place], axis) for run in runs) for place in range(count)]
    return x, [interval(run.at(place, family) for run in runs) for place in range(count)]


def write_report(results: Results, out: Path) -> None:
    """`learning.md`, and the plots `learning-step.png` and `learning-minutes.png` of each world that has runs."""
    (out / "learning.md").write_text(markdown(results), encoding="utf-8")
    for name, families in WORLDS.items():
        for axis in ("step", "minutes") if results.arms(families) else ():
            curves(results, axis, out / f"learning-{name}{axis}.png", families)
