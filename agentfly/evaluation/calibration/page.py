"""The report of a calibration for people: one HTML file that loads nothing, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentfly.errors import ImageError
from agentfly.evaluation.calibration.cases import Item, Material
from agentfly.evaluation.calibration.statistics import LET_THROUGH, THROUGH
from agentfly.evaluation.report.gallery import thumbnail
from agentfly.evaluation.report.html import page_templates
from agentfly.evaluation.report.markdown import table
from agentfly.files import write_text

_WIDTH, _HEIGHT, _EDGE = 300.0, 200.0, 34.0  # of a chart in pixels
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """A result that an evaluator rates too high; images are data URIs."""

    evaluator: str
    attack: str
    instruction: str
    score: float
    source: str
    result: str


@dataclass(frozen=True)
class Point:
    """A point of a chart with its interval, in pixels; `note` is its text."""

    x: float
    y: float
    low: float
    high: float
    note: str


def write_page(path: Path, report: Figures, material: Material) -> Path:
    """Write the report as one HTML file.

    Args:
        path: of the file.
        report: of `agentfly.evaluation.calibration.report.make_report`.
        material: that the evaluators were measured on, for examples.
    """
    environment = page_templates(Path(__file__).parent)
    environment.filters |= {"percent": percent, "points": points, "share": lambda value: f"{100 * value:.0f} %"}
    evaluators = report["evaluators"]
    page = environment.get_template("calibration.html.jinja").render(
        report=report,
        evaluators=evaluators,
        kinds=_names(evaluators, "by_kind"),
        sources=_names(evaluators, "by_source"),
        attacks=_names(evaluators, "attacks"),
        curves={label: _curve(one) for label, one in evaluators.items()},
        worths={label: _worths(one) for label, one in evaluators.items()},
        frame={"width": _WIDTH, "height": _HEIGHT, "edge": _EDGE},
        examples=list(_examples(report, material)),
        through=THROUGH,
        let_through=LET_THROUGH,
    )
    return write_text(path, page)


def summary_tables(report: Figures) -> str:
    """Return the main figures in Markdown: accuracy, attacks, the calibration curve, and what a sample takes."""
    evaluators: Figures = report["evaluators"]
    labels = list(evaluators)
    accuracies = [["all pairs", *(percent(evaluators[label]["accuracy"]["share"]) for label in labels)]]
    for part in ("by_source", "by_kind"):
        for name in _names(evaluators, part):
            found = [evaluators[label][part].get(name) for label in labels]
            accuracies.append([name, *(percent(one and one["share"]) for one in found)])
    attacks = []
    for name in _names(evaluators, "attacks"):
        found = [evaluators[label]["attacks"][name] for label in labels]
        attacks.append([name, *(_attack(one) for one in found)])
    parts = [
        "## Accuracy\n",
        table(["right order, %", *labels], accuracies),
        "## Attacks\n",
        table(["mean score; % of the tasks on which it is through", *labels], attacks),
        "## Calibration curve\n",
        table(["predicted to be in the right order, %", *labels], _curve_rows(evaluators)),
        "## Work\n",
        table(["", *labels], _work(evaluators)),
    ]
    if report["agreement"]:
        rows = [
            [f"{one['one']} / {one['other']}", points(one["rank_correlation"]), percent(one["same_order"])]
            for one in report["agreement"]
        ]
        parts += ["## Agreement\n", table(["evaluators", "rank correlation", "same order, %"], rows)]
    return "\n".join(parts)


def percent(found: Mapping[str, float] | None) -> str:
    """Return a share with its interval in per cent, "–" for none."""
    if found is None:
        return "–"
    return f"{100 * found['mean']:.1f} [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def points(found: Mapping[str, float] | None, digits: int = 2) -> str:
    """Return a mean with its interval, "–" for none.

    Args:
        found: of `Estimate.to_dict`.
        digits: after the point.
    """
    if found is None:
        return "–"
    return " ".join((f"{found['mean']:.{digits}f}", f"[{found['low']:.{digits}f}, {found['high']:.{digits}f}]"))


def _attack(one: Figures) -> str:
    if one["score"] is None:
        return "–"
    mark = " !" if one["let_through"] else ""
    return f"{one['score']['mean']:.1f}; {percent(one['through'])}{mark}"


def _curve_rows(evaluators: Figures) -> Iterator[list[str]]:
    """Yield the bins of the curves: the share of their pairs that are in the right order, and how many they are."""
    bins = {
        label: {(found["low"], found["high"]): found for found in (one["calibration"] or {"bins": []})["bins"]}
        for label, one in evaluators.items()
    }
    for low, high in sorted({edges for one in bins.values() for edges in one}):
        cells = [one.get((low, high)) for one in bins.values()]
        shown = ["–" if cell is None else f"{percent(cell['right'])} of {cell['pairs']}" for cell in cells]
        yield [f"{100 * low:.0f} to {100 * high:.0f}", *shown]


def _work(evaluators: Figures) -> Iterator[list[str]]:
    ones = list(evaluators.values())
    yield [
        f"milliseconds a sample, {ones[0]['in_flight']} at once",
        *("–" if one["seconds"] is None else _milliseconds(one["seconds"]) for one in ones),
    ]
    yield ["samples a second", *(f"{one['samples_a_second'] or 0:.1f}" for one in ones)]
    yield ["cost a sample", *("–" if one["cost"] is None else f"{one['cost']['mean']:.6f}" for one in ones)]
    yield ["not scored", *(str(one["not_scored"]) for one in ones)]
    yield [
        "calibration error (ECE), %",
        *("–" if one["calibration"] is None else f"{100 * one['calibration']['error']:.1f}" for one in ones),
    ]
    yield ["rank correlation with worth", *(points(one["worth"] and one["worth"]["rank_correlation"]) for one in ones)]
    again = [one["retest"] for one in ones]
    yield [
        "spread of a sample, points",
        *("–" if one is None or one["spread"] is None else f"{one['spread']:.2f}" for one in again),
    ]
    yield ["orders that flip, %", *("–" if one is None else percent(one["flipped"]) for one in again)]
    yield ["position bias, %", *("–" if one is None else percent(one["position"]) for one in again)]


def _milliseconds(seconds: Mapping[str, float]) -> str:
    return points({name: 1000 * value for name, value in seconds.items()}, 1)


def _names(evaluators: Figures, part: str) -> list[str]:
    """Return the names that any evaluator has in a part of its figures, in their order."""
    return list(dict.fromkeys(name for one in evaluators.values() for name in one[part]))


def _curve(figures: Figures) -> list[Point]:
    curve = figures["calibration"]
    if curve is None:
        return []
    return [
        _point(2 * one["predicted"] - 1, one["right"], 1.0, f"{one['pairs']} pairs, {percent(one['right'])} right")
        for one in curve["bins"]
    ]


def _worths(figures: Figures) -> list[Point]:
    curve = figures["worth"]
    if curve is None:
        return []
    return [
        _point(one["worth"], one["score"], 100.0, f"{one['samples']} samples, score {points(one['score'], 1)}")
        for one in curve["steps"]
    ]


def _point(share: float, found: Mapping[str, float], full: float, note: str) -> Point:
    """Return a point of a chart.

    Args:
        share: of the chart's width, 0 to 1.
        found: its height with its interval.
        full: value at the top of the chart.
        note: its text.
    """
    inner_width, inner_height = _WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE

    def height(value: float) -> float:
        return round(_HEIGHT - _EDGE - inner_height * value / full, 1)

    x = round(_EDGE + share * inner_width, 1)
    return Point(x, height(found["mean"]), height(found["low"]), height(found["high"]), note)


def _examples(report: Figures, material: Material) -> Iterator[Example]:
    """Yield the worst result of each attack that is let through, by evaluator."""
    items: dict[str, Item] = {item.id: item for item in material.items}
    for label, figures in report["evaluators"].items():
        for name in figures["let_through"]:
            item = items.get(figures["attacks"][name]["worst"])
            if item is None:
                continue
            try:
                sample = item.make()
            except ImageError:
                continue
            assert sample.result is not None
            images = thumbnail(sample.source), thumbnail(sample.result)
            yield Example(label, name, sample.instruction, figures["attacks"][name]["highest"], *images)


def record_lines(report: Figures) -> Sequence[str]:
    """Return the reasons not to trust each evaluator, a line each."""
    return [f"{label}: {caution}" for label, figures in report["evaluators"].items() for caution in figures["cautions"]]
