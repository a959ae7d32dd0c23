"""One side of a comparison: a part of a run, at one step where it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentfly.viewer.index import Index
from agentfly.viewer.runs.folder import RunFolder

_LONGEST_NAME = 32  # characters of the name of a side
_SHARED = 8  # of them, and of a word, that two long names share at their beginning


@dataclass(frozen=True)
class PartChoice:
    """A part that can be compared.

    Attributes:
        part, label: number and label.
        validated: its steps are those of validations, since it has some.
        steps: that can be chosen from; none outside of training.
    """

    part: int
    label: str
    validated: bool
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """What stands on one side.

    Attributes:
        slug: of the run.
        part: that was chosen.
        step: that was chosen; None for all chains of the part.
        parts: that can be chosen from.
    """

    slug: str
    part: PartChoice
    step: int | None
    parts: tuple[PartChoice, ...]

    @property
    def moment(self) -> str:
        """Part and step in words; "" for all chains of a run."""
        step = f"{'validation at ' if self.part.validated else ''}step {self.step}" if self.step is not None else ""
        return ", ".join(word for word in (self.part.label, step) if word)

    def where(self) -> tuple[str, list[int]]:
        """Return the condition on its chains in SQL and its values."""
        if self.step is None:
            return "part = ?", [self.part.part]
        return "part = ? AND step = ? AND validate = ?", [self.part.part, self.step, int(self.part.validated)]


def part_choices(index: Index) -> tuple[PartChoice, ...]:
    """Return the parts of a run that have chains."""
    steps: dict[tuple[int, int], list[int]] = {}
    there: set[int] = set()
    for row in index.query("SELECT DISTINCT part, validate, step FROM chains ORDER BY step"):
        there.add(row["part"])
        if row["step"] is not None:
            steps.setdefault((row["part"], row["validate"] or 0), []).append(row["step"])
    labels = [(row["part"], row["label"]) for row in index.query("SELECT part, label FROM parts ORDER BY part")]
    return tuple(
        PartChoice(part, label, (part, 1) in steps, tuple(steps.get((part, 1)) or steps.get((part, 0)) or ()))
        for part, label in labels
        if part in there
    )


def choose_sides(
    a: tuple[str, tuple[PartChoice, ...]], b: tuple[str, tuple[PartChoice, ...]], wanted: Mapping[str, int | None]
) -> tuple[Side, Side]:
    """Return the sides that are wanted, or those that say most.

    Of one run, the warm start is compared with the trained policy, or the first step with the last. Of two runs, the
    last of each is taken.

    Args:
        a, b: slug and parts of each run; each has a part.
        wanted: `part_a`, `step_a`, `part_b` and `step_b`.
    """
    same = a[0] == b[0]
    first = _side(*a, wanted["part_a"], wanted["step_a"], earliest=same)
    alike = first.part if same and wanted["part_b"] is None else None
    return first, _side(*b, wanted["part_b"], wanted["step_b"], like=alike)


def side_names(a: tuple[RunFolder, Side], b: tuple[RunFolder, Side]) -> tuple[str, str]:
    """Return short names by which a person tells two sides apart: those of the runs, or of two moments of one run.

    Args:
        a, b: run and side.
    """
    (run_a, side_a), (run_b, side_b) = a, b
    if run_a == run_b:
        pair = (side_a.moment, side_b.moment)
        return _shortened(*pair) if pair[0] != pair[1] else ("the first choice", "the second choice")
    pairs = ((run_a.path.name, run_b.path.name), (run_a.name, run_b.name), (run_a.slug, run_b.slug))
    return _shortened(*next(pair for pair in pairs if pair[0] != pair[1]))


def _shortened(one: str, other: str) -> tuple[str, str]:
    """Return two different names, short and still different: of a long beginning that they share, the end is left."""
    cut = 0
    if max(len(one), len(other)) > _LONGEST_NAME:
        differs = (at for at, (x, y) in enumerate(zip(one, other, strict=False)) if x != y)
        cut = max(0, next(differs, min(len(one), len(other))) - _SHARED)
        word = max(map(one[:cut].rfind, " -_/.")) + 1
        cut = word if cut - word <= _SHARED else cut

    def short(name: str) -> str:
        left = f"…{name[cut:]}" if cut else name
        # The first letter that differs is in the beginning, and steps stand at the end.
        return left if len(left) <= _LONGEST_NAME else f"{left[:19]}…{left[-12:]}"

    return short(one), short(other)


def _side(
    slug: str,
    parts: tuple[PartChoice, ...],
    part: int | None,
    step: int | None,
    *,
    earliest: bool = False,
    like: PartChoice | None = None,
) -> Side:
    chosen = next((choice for choice in parts if choice.part == part), None) or _usual(parts, earliest, like)
    if step not in chosen.steps:
        step = None if not chosen.steps else chosen.steps[0] if earliest else chosen.steps[-1]
    return Side(slug, chosen, step, parts)


def _usual(parts: tuple[PartChoice, ...], earliest: bool, like: PartChoice | None) -> PartChoice:
    """Return the part that is shown unless another one is chosen."""
    if like is not None:
        # The same pass of the other policy: "warm start, greedy" and "trained, greedy".
        way = like.label.partition(", ")[2]
        others = [p for p in parts if p is not like and way and p.label.endswith(f", {way}")]
        return others[-1] if others else like
    evaluated = [p for p in parts if not p.steps]
    greedy = [p for p in evaluated if p.label.endswith("greedy")] or evaluated or list(parts)
    return greedy[0] if earliest else greedy[-1]
