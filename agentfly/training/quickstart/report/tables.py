"""Tables of the figures in a run's summary. Figures that a summary lacks are left out.

Scores are points from 0 to 100; success and shares become per cent, so that all bars share one scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Summary = Mapping[str, Any]  # parsed JSON of any version: every reader below takes what is there

MODES = ("greedy", "sampled")
POLICIES = ("warm_start", "trained")
_CHOICES = {"tool": "Tool", "box_threshold": "box_threshold", "auto_mask_dilate": "auto_mask_dilate"}
_MAX_VALUES = 8


@dataclass(frozen=True)
class Range:
    """A mean with its 95 % interval, in points or per cent."""

    mean: float
    low: float
    high: float

    @property
    def start(self) -> float:
        """Start of the interval on a track from 0 to 100."""
        return min(max(self.low, 0.0), 100.0)

    @property
    def width(self) -> float:
        """Length of the interval on that track."""
        return min(max(self.high, 0.0), 100.0) - self.start

    @property
    def position(self) -> float:
        """Place of the mean on that track."""
        return min(max(self.mean, 0.0), 100.0)


@dataclass(frozen=True)
class Comparison:
    """Figures before and after training, for one way of sampling."""

    warm_start: Range | None
    trained: Range | None
    gain: Range | None = None


@dataclass(frozen=True)
class FamilyRow:
    """One family of tasks (or "all") in a table, with a comparison for each column of the head."""

    name: str
    count: int | None
    modes: tuple[Comparison, ...]


@dataclass(frozen=True)
class ShareTable:
    """Frequencies of values: rows of value, per cent before, per cent after (None: not measured)."""

    title: str
    rows: tuple[tuple[str, float | None, float | None], ...]


def modes(summary: Summary) -> list[str]:
    """Return the ways of sampling that a summary has, greedy first."""
    return [mode for mode in MODES if any(mode in summary.get(policy, {}) for policy in POLICIES)]


def evaluation(summary: Summary, policy: str, mode: str) -> Summary:
    """Return the summary of one evaluation, empty where it was not run.

    Args:
        summary: of the run.
        policy: one of `POLICIES`.
        mode: one of `MODES`.
    """
    found: Summary = summary.get(policy, {}).get(mode, {})
    return found


def to_range(estimate: Mapping[str, float] | None, scale: float = 1.0) -> Range | None:
    """Return an estimate of the summary times `scale`, None where it is missing or not finite."""
    if not estimate or not math.isfinite(estimate["mean"]):
        return None
    return Range(*(scale * estimate[key] for key in ("mean", "low", "high")))


def families(summary: Summary) -> list[str]:
    """Return the families of tasks of all evaluations."""
    names: dict[str, None] = {}
    for policy in POLICIES:
        for mode in modes(summary):
            names |= dict.fromkeys(evaluation(summary, policy, mode).get("score_by_family", {}))
    return list(names)


def score_rows(summary: Summary) -> list[FamilyRow]:
    """Return the mean scores of all tasks, then of each family."""

    def comparison(name: str, mode: str) -> Comparison:
        before, after = (_score(evaluation(summary, policy, mode), name) for policy in POLICIES)
        return Comparison(before, after, to_range(summary.get("gain", {}).get(mode, {}).get(name)))

    return _family_rows(summary, comparison)


def success_rows(summary: Summary) -> list[FamilyRow]:
    """Return the per cent of tasks that count as done, of all tasks, then of each family."""

    def comparison(name: str, mode: str) -> Comparison:
        return Comparison(*(_success(evaluation(summary, policy, mode), name) for policy in POLICIES))

    return _family_rows(summary, comparison)


def choice_tables(summary: Summary, mode: str) -> list[ShareTable]:
    """Return how often each tool, and each value of the parameters in `_CHOICES`, was chosen."""
    found = [evaluation(summary, policy, mode).get("choices", {}) for policy in POLICIES]
    tables = [_shares(title, *(choices.get(key, {}) for choices in found)) for key, title in _CHOICES.items()]
    return [table for table in tables if table.rows]


def stop_table(summary: Summary, mode: str) -> ShareTable:
    """Return how often chains ended for each reason."""
    return _shares("Why chains ended", *(evaluation(summary, p, mode).get("stop_reasons", {}) for p in POLICIES))


def tool_calls(summary: Summary, mode: str) -> tuple[float | None, float | None]:
    """Return the tool calls per task, before and after training."""
    before, after = (evaluation(summary, policy, mode).get("tool_calls_per_task") for policy in POLICIES)
    return before, after


def blanked_rows(summary: Summary) -> Iterator[tuple[str, str, Range | None, Range | None]]:
    """Yield policy, family, success with images, and success with every image blanked, in per cent (greedy)."""
    for policy in POLICIES:
        for family, estimate in summary.get("blanked", {}).get(policy, {}).items():
            seeing = _success(evaluation(summary, policy, "greedy"), family)
            yield policy.replace("_", " "), family, seeing, to_range(estimate, 100)


def headline(summary: Summary) -> str:
    """Return the effect of training in one sentence. It claims nothing where the interval of the gain holds zero."""
    name = str(summary["algorithm"]).upper() if "algorithm" in summary else "Training"
    minutes = f" in {summary['minutes']:.1f} minutes" if "minutes" in summary else ""
    mode = next((mode for mode in modes(summary) if "all" in summary.get("gain", {}).get(mode, {})), "greedy")
    before, after = (_score(evaluation(summary, policy, mode), "all") for policy in POLICIES)
    gain = to_range(summary.get("gain", {}).get(mode, {}).get("all"))
    if before is None or after is None or gain is None:
        return f"{name} ran{minutes}; warm start and trained policy were not compared."
    verb = "raised" if gain.low > 0 else "lowered" if gain.high < 0 else "did not clearly change"
    numbers = f"{before.mean:.1f} to {after.mean:.1f} points"
    numbers = f"from {numbers}" if verb != "did not clearly change" else f"({numbers})"
    interval = f"{gain.mean:+.1f}, 95 % interval {gain.low:+.1f} to {gain.high:+.1f}"
    return f"{name} {verb} the {mode} score on held-out tasks {numbers}{minutes} ({interval})."


def _family_rows(summary: Summary, comparison: Callable[[str, str], Comparison]) -> list[FamilyRow]:
    return [
        FamilyRow(name, _count(summary, name), tuple(comparison(name, mode) for mode in modes(summary)))
        for name in ("all", *families(summary))
    ]


def _score(found: Summary, family: str) -> Range | None:
    return to_range(found.get("score") if family == "all" else found.get("score_by_family", {}).get(family))


def _success(found: Summary, family: str) -> Range | None:
    return to_range(found.get("success", {}).get(family), 100)


def _count(summary: Summary, family: str) -> int | None:
    for policy in reversed(POLICIES):
        for mode in modes(summary):
            found = evaluation(summary, policy, mode)
            count = found.get("tasks") if family == "all" else found.get("tasks_by_family", {}).get(family)
            if count is not None:
                return int(count)
    return None


def _shares(title: str, before: Mapping[str, int], after: Mapping[str, int]) -> ShareTable:
    total = {value: before.get(value, 0) + after.get(value, 0) for value in (*before, *after)}

    def place(value: str) -> tuple[int, float]:
        """Return a sort key: numbers by size, then words by how often they were chosen."""
        try:
            return 0, float(value)
        except ValueError:
            return 1, -float(total[value])

    kept = sorted(total, key=lambda value: -total[value])[:_MAX_VALUES]
    rows = [(value, _share(before, value), _share(after, value)) for value in sorted(kept, key=place)]
    rest = [value for value in total if value not in kept]
    if rest:
        # Shares of the rest, so that a column still adds up to 100.
        sums = [None if not counts else sum(_share(counts, v) or 0.0 for v in rest) for counts in (before, after)]
        rows.append((f"{len(rest)} other values", sums[0], sums[1]))
    return ShareTable(title, tuple(rows))


def _share(counts: Mapping[str, int], value: str) -> float | None:
    return 100 * counts.get(value, 0) / sum(counts.values()) if counts else None
