"""The tables of a run: scores by task type, before and after, stop reasons, tools and judges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentfly.viewer.index import Filters
from agentfly.viewer.overview.cells import Cells, Sums, shares
from agentfly.viewer.overview.gains import Gain, Mean
from agentfly.viewer.runs.facts import is_number

_MOST_ROWS = 40
_TRACK = 100.0  # width of a bar's drawing, in which a point of the score is one unit


@dataclass(frozen=True)
class Bar:
    """A mean with its interval on a track from 0 to 100, ready to be drawn.

    Attributes:
        text: the mean.
        interval: in words; "" where there is none.
        place, start, width: of the mean and of the interval, 0 to 100.
    """

    text: str
    interval: str
    place: float
    start: float
    width: float


@dataclass(frozen=True)
class TypeRow:
    """A task type in a table of scores; the name "" stands for all tasks.

    Attributes:
        name: task type.
        chains: to look at.
        count: of tasks or prompts, as a text.
        before, after, gain: None where they are not known; `gain` is a text with its verdict.
        success: per cent, before and after.
    """

    name: str
    chains: Filters
    count: str
    before: Bar | None = None
    after: Bar | None = None
    gain: tuple[str, str] | None = None
    success: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class ShareRow:
    """How often something happened: name, number, per cent, and the chains to look at."""

    name: str
    count: int
    share: float
    chains: Filters | None


@dataclass(frozen=True)
class Evaluator:
    """An evaluator of an evaluation.

    Attributes:
        name: label.
        bar: mean score with its interval; None where nothing was scored.
        scored, missing: numbers of tasks with and without a score.
        reasons: for a missing score, with their numbers.
        usage: name and value, for an evaluator that asks a model.
    """

    name: str
    bar: Bar | None
    scored: int
    missing: int
    reasons: tuple[tuple[str, int], ...]
    usage: tuple[tuple[str, str], ...]


def bar(mean: float, low: float, high: float, unit: str = "") -> Bar | None:
    """Return a bar of a mean with its interval, in points or per cent; None where it is no number."""
    if not math.isfinite(mean):
        return None
    known = math.isfinite(low) and math.isfinite(high)
    place, start, end = (
        min(max(v, 0.0), _TRACK) if math.isfinite(v) else min(max(mean, 0.0), _TRACK) for v in (mean, low, high)
    )
    return Bar(
        f"{mean:.0f}{unit}",
        f"{low:.0f} to {high:.0f}" if known else "",
        round(place, 1),
        round(start, 1),
        round(end - start, 1),
    )


def gain_text(gain: Mean, scale: float = 1.0) -> tuple[str, str]:
    """Return a difference as a text, and the class of its colour."""
    level = {"rose": "good", "fell": "bad"}.get(gain.verdict, "") if gain.bounded else ""
    reach = scale * (gain.high - gain.mean)
    return f"{scale * gain.mean:+.1f}" + (f" ± {reach:.1f}" if math.isfinite(reach) else ""), level


def gain_rows(gains: Mapping[str | None, Gain], filters: Filters, cells: Cells, *, scale: float = 1.0) -> list[TypeRow]:
    """Return a row for all tasks and one for each type.

    Args:
        gains: by task type, those of all as None.
        filters: chains behind the values after.
        cells: of these chains, for their success.
        scale: that makes points from 0 to 100 of a value: 100 for rewards.
    """
    rows = []
    for name, gain in _in_order(gains):
        ends = (gain.before, gain.after)
        before, after = (bar(scale * end.mean, scale * end.low, scale * end.high) for end in ends)
        success = Sums.of((cells if name is None else cells.of_type(name)).cells).success
        shown = ("", "" if success is None else f"{success:.0%}")
        chains = filters if name is None else replace(filters, type=name)
        rows.append(
            TypeRow(name or "", chains, str(gain.after.count), before, after, gain_text(gain.gain, scale), shown)
        )
    return rows


def summary_rows(summary: Mapping[str, Any]) -> list[TypeRow]:
    """Return a row for all tasks and one for each type from the summary of an evaluation; none without one."""
    by_type = summary.get("by_type")
    found = {None: summary.get("all"), **(by_type if isinstance(by_type, Mapping) else {})}
    label = next(iter(labels_of(summary)), None)
    rows = []
    for name, figures in list(found.items())[:_MOST_ROWS]:
        if not isinstance(figures, Mapping):
            continue
        score = _at(figures, "scores", label, "score")
        success = _at(figures, "success", "mean")
        text = f"{success:.0%}" if is_number(success) else ""
        chains = Filters(type=str(name)) if name is not None else Filters()
        rows.append(
            TypeRow(str(name or ""), chains, str(figures.get("tasks", "")), None, estimate_bar(score), None, ("", text))
        )
    return rows


def cell_rows(cells: Cells) -> list[TypeRow]:
    """Return a row for all chains and one for each type, without intervals: of an evaluation that still runs."""
    found = [("", cells), *((name, cells.of_type(name)) for name in cells.types[:_MOST_ROWS])]
    rows = []
    for name, those in found:
        sums = those.sums
        score = None if sums.mean_score is None else bar(sums.mean_score, math.nan, math.nan)
        success = "" if sums.success is None else f"{sums.success:.0%}"
        rows.append(TypeRow(name, Filters(type=name), str(sums.chains), None, score, None, ("", success)))
    return rows


def quickstart_rows(summary: Mapping[str, Any], mode: str) -> list[TypeRow]:
    """Return rows before and after from the summary of a quickstart; none where it lacks them.

    Args:
        summary: content of `summary.json`.
        mode: "greedy" or "sampled".
    """
    gains = _at(summary, "gain", mode)
    if not isinstance(gains, Mapping):
        return []
    rows = []
    for name, gain in list(gains.items())[:_MOST_ROWS]:
        found = [_at(summary, policy, mode) for policy in ("warm_start", "trained")]
        scores = [_at(f, "score") if name == "all" else _at(f, "score_by_family", name) for f in found]
        successes = [_at(f, "success", name, "mean") for f in found]
        count = _at(found[1], "tasks") if name == "all" else _at(found[1], "tasks_by_family", name)
        before, after = map(estimate_bar, scores)
        shown = [f"{v:.0%}" if is_number(v) else "" for v in successes]
        mean = _mean(gain)
        chains = Filters(type="" if name == "all" else str(name))
        difference = None if mean is None else gain_text(mean)
        rows.append(
            TypeRow(
                "" if name == "all" else str(name),
                chains,
                str(count or ""),
                before,
                after,
                difference,
                (shown[0], shown[1]),
            )
        )
    return rows


def blanked_rows(summary: Mapping[str, Any], part: int | None) -> tuple[list[TypeRow], str]:
    """Return success with images and with every image blanked, and the same in words: a policy that looks fails there.

    Args:
        summary: content of a quickstart's `summary.json`.
        part: number of the blanked pass.
    """
    trained, chance = _at(summary, "blanked", "trained"), _at(summary, "blanked", "chance")
    rows = []
    for name, estimate in list(trained.items())[:_MOST_ROWS] if isinstance(trained, Mapping) else ():
        seeing = estimate_bar(_at(summary, "trained", "greedy", "success", str(name)), 100)
        rows.append(TypeRow(str(name), Filters(part=part, type=str(name)), "", seeing, estimate_bar(estimate, 100)))
    guess = f"; guessing gets {chance:.0%}" if is_number(chance) else ""
    return rows, f"success of the trained policy where it sees grey in place of every image{guess}"


def estimate_bar(found: Any, scale: float = 1.0) -> Bar | None:
    """Return the bar of an estimate in a summary, None where it is none."""
    mean = _mean(found)
    return (
        None
        if mean is None
        else bar(scale * mean.mean, scale * mean.low, scale * mean.high, " %" if scale != 1 else "")
    )


def evaluators_of(summary: Mapping[str, Any]) -> list[Evaluator]:
    """Return the evaluators of an evaluation's summary, the headline first."""
    found = []
    for label in labels_of(summary):
        scores = _at(summary, "all", "scores", label)
        if not isinstance(scores, Mapping):
            continue
        reasons = scores.get("reasons")
        usage = _at(summary, "all", "judge", label)
        kept = (
            tuple((str(r)[:200], int(n)) for r, n in reasons.items() if isinstance(n, int))
            if isinstance(reasons, Mapping)
            else ()
        )
        scored, missing = (v if isinstance(v := scores.get(key), int) else 0 for key in ("scored", "not_scored"))
        mean = estimate_bar(scores.get("score"))
        found.append(Evaluator(label, mean, scored, missing, kept, tuple(_usage(usage))))
    return found


def labels_of(summary: Mapping[str, Any]) -> list[str]:
    """Return the labels of the evaluators in a summary."""
    found = summary.get("evaluators")
    return [str(label) for label in found[:20]] if isinstance(found, Sequence) and not isinstance(found, str) else []


def stop_rows(cells: Cells) -> list[ShareRow]:
    """Return why chains ended, the most frequent reason first."""
    whole = shares(cells.stops, cells.sums.chains)
    return [ShareRow(name, cells.stops[name], share, Filters(stop=name)) for name, share in list(whole.items())[:20]]


def tool_rows(cells: Cells) -> list[ShareRow]:
    """Return the tools by the number of chains that call them."""
    whole = shares(cells.tools, cells.sums.chains)
    return [ShareRow(name, cells.tools[name], share, Filters(tool=name)) for name, share in list(whole.items())[:20]]


def _usage(usage: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(usage, Mapping):
        return
    for name, value in list(usage.items())[:12]:
        if is_number(value):
            yield str(name).replace("_", " "), f"{value:,.2f}".rstrip("0").rstrip(".")


def _in_order(gains: Mapping[str | None, Gain]) -> list[tuple[str | None, Gain]]:
    """Return all tasks first, then the types with the most samples."""
    return sorted(gains.items(), key=lambda entry: (entry[0] is not None, -entry[1].after.count, entry[0] or ""))[
        :_MOST_ROWS
    ]


def _mean(found: Any) -> Mean | None:
    values = [found.get(key) for key in ("mean", "low", "high")] if isinstance(found, Mapping) else [None]
    numbers = [float(v) for v in values if isinstance(v, float) or is_number(v)]
    return Mean(numbers[0], numbers[1], numbers[2], 0) if len(numbers) == 3 and math.isfinite(numbers[0]) else None


def _at(found: Any, *names: str | None) -> Any:
    """Return what stands at a path of names in parsed JSON, None where there is nothing."""
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
