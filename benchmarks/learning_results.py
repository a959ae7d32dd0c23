"""The results of `benchmarks/learning.py`: runs of arms and seeds, kept in a file.

Figures come from the metrics that verl logs. An interval is Student's t over the seeds.
"""

from __future__ import annotations

import json
import math
import statistics
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from agentfly.agents.trajectory_file import read_trajectories
from agentfly.datasets import ALL_FAMILIES, FAMILIES
from agentfly.errors import ConfigError
from agentfly.evaluators import Score
from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.files import write_text

ALL = "all"
# Figures of a training step that tell how it went, by their names in verl's metrics.
STEP_FIGURES = {
    "reward": "critic/rewards/mean",
    "explained_variance": "critic/vf_explained_var",
    "value_loss": "critic/vf_loss",
    "entropy": "actor/entropy",
    "kl": "actor/ppo_kl",
    "probability_difference": "training/rollout_probs_diff_max",
    "turns": "num_turns/mean",
    "tokens": "response_length/mean",
    "seconds": "timing_s/step",
    "tool_seconds": "tools/total_seconds",
    "tool_seconds_discarded": "tools/total_discarded_seconds",
    "tool_calls": "tools/total_calls",
    "replaced": "refill/total_groups",
}
HELD_OUT = ("success", "score", "tool_calls")
# Student's t at 0.975 for 1, 2, ... degrees of freedom; the last one serves for more, on the safe side.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Validation:
    """The policy on the held-out tasks.

    Attributes:
        step: after which step; 0 is the warm start.
        minutes: of training until then.
        figures: "success" (0 to 1), "score" (0 to 100) and "tool_calls", each by task type and over all.
    """

    step: int
    minutes: float
    figures: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Attributes:
        arm, seed: which.
        overrides: of the recipe, beside the budget.
        validations: in order, the warm start first.
        steps: what `STEP_FIGURES` names, of each step.
        start_seconds: until training began, by phase.
        blanked: success on the look tasks, seeing and with grey images; None where it was not asked for.
        tools: see `tool_use`; None where it was not asked for.
    """

    arm: str
    seed: int
    overrides: Sequence[str]
    validations: Sequence[Validation]
    steps: Sequence[Mapping[str, float]]
    start_seconds: Mapping[str, float] = field(default_factory=dict)
    blanked: Mapping[str, float] | None = None
    tools: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None

    @property
    def minutes(self) -> float:
        """Minutes of training."""
        return self.validations[-1].minutes

    @property
    def tool_seconds(self) -> float:
        """Seconds in tools while it was trained, those of chains that were not trained on too."""
        return self.total("tool_seconds") + self.total("tool_seconds_discarded")

    def total(self, figure: str) -> float:
        """Sum of a figure over the steps."""
        return sum(step.get(figure, 0.0) for step in self.steps)

    @property
    def families(self) -> tuple[str, ...]:
        """Task types of its held-out tasks."""
        figures = self.validations[0].figures["success"]
        return tuple(family for family in ALL_FAMILIES if family in figures)

    def at(self, which: int, family: str) -> float:
        """Success of a validation, in per cent; NaN where it has no such task."""
        return 100 * self.validations[which].figures["success"].get(family, math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "minutes": self.minutes}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Run:
        """The inverse of `to_dict`."""
        fields = {name: value for name, value in found.items() if name != "minutes"}
        return cls(**{**fields, "validations": [Validation(**each) for each in found["validations"]]})


def read_metrics(metrics: Sequence[tuple[int, Mapping[str, float]]]) -> tuple[list[Validation], list[dict[str, float]]]:
    """Validations and steps from what verl logged of each step."""
    minutes, validations, steps = 0.0, [], []
    for step, values in metrics:
        minutes += values.get("timing_s/step", 0.0) / 60
        if step > 0:
            kept = {name: values[key] for name, key in STEP_FIGURES.items() if key in values}
            steps.append({"step": float(step), **kept})
        if figures := held_out_figures(values):
            validations.append(Validation(step, minutes, figures))
    return validations, steps


def held_out_figures(values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """By figure and task type; over all is the mean of the types, of which there are as many tasks each."""
    found: dict[str, dict[str, float]] = {}
    for figure in HELD_OUT:
        names = {family: f"val-aux/{family}/{figure}/mean@1" for family in ALL_FAMILIES}
        by_family = {family: values[name] for family, name in names.items() if name in values}
        if by_family:
            found[figure] = {ALL: statistics.fmean(by_family.values()), **by_family}
    return found if "success" in found else {}


def by_exact_score(validations: Sequence[Validation], trajectories: Path) -> list[Validation]:
    """Return validations with success and score by the audit, which knows the truth, in place of those by a judge.

    Args:
        validations: by the judge.
        trajectories: file of the run, in which every chain is audited.
    """
    scores: dict[int, dict[str, list[float]]] = {}
    for _, line in read_trajectories(trajectories):
        audit = line.scores.get("audit")
        if line.validate and line.step is not None and isinstance(audit, Score):
            by_family = scores.setdefault(line.step, {})
            by_family.setdefault(line.described_task().task_type, []).append(audit.value)
    found = []
    for validation in validations:
        known = scores[validation.step]
        means = {
            "success": {name: statistics.fmean(score >= SUCCESS for score in each) for name, each in known.items()},
            "score": {name: statistics.fmean(each) for name, each in known.items()},
        }
        exact = {name: {ALL: statistics.fmean(figures.values()), **figures} for name, figures in means.items()}
        found.append(replace(validation, figures={**validation.figures, **exact}))
    return found


def tool_use(trajectories: Path, steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return the share of held-out chains that call each tool, by task type, "before" training and "after" it.

    Args:
        trajectories: file of the run.
        steps: after which the last validation was made.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    called: dict[tuple[str, str], list[set[str]]] = {}
    for _, line in read_trajectories(trajectories):
        when = {0: "before", steps: "after"}.get(line.step if line.step is not None else -1)
        if line.validate and when is not None:
            records = line.trajectory.tool_records
            names = {record.name for record in records if not record.malformed} - {"give_answer"}
            called.setdefault((when, line.described_task().task_type), []).append(names)
    for (when, family), chains in called.items():
        every = sorted(set().union(*chains))
        shares = {name: sum(name in names for names in chains) / len(chains) for name in every}
        found.setdefault(when, {})[family] = shares
    return found


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and half the width of its 95 % interval; NaN for fewer than two seeds."""

    mean: float
    half: float

    def __str__(self) -> str:
        mean = "nan" if math.isnan(self.mean) else str(round(self.mean))
        return mean if math.isnan(self.half) else f"{mean} ± {self.half:.0f}"


def interval(values: Iterable[float]) -> Interval:
    """Mean and half width by Student's t: t(0.975, n - 1) * s / sqrt(n)."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Interval(math.nan, math.nan)
    if len(known) == 1:
        return Interval(known[0], math.nan)
    spread = statistics.stdev(known) / math.sqrt(len(known))
    return Interval(statistics.fmean(known), T_975[min(len(known) - 1, len(T_975)) - 1] * spread)


class Results:
    """The measurements so far, in a file.

    Args:
        file: JSON, made with the first result.
        budget: of every run in it, as plain JSON.
        arms: in the order in which they are shown.

    Raises:
        ConfigError: the file has runs of another budget.
    """

    def __init__(self, file: Path, budget: Mapping[str, int], arms: Iterable[str]) -> None:
        self._file, self._budget, self._arms = file, dict(budget), tuple(arms)
        self.runs: dict[tuple[str, int], Run] = {}
        self._writing = threading.Lock()
        self._read()

    def _read(self) -> None:
        if not self._file.exists():
            return
        found = json.loads(self._file.read_text(encoding="utf-8"))
        if found["budget"] != self._budget:
            raise ConfigError(
                f"{self._file} has runs of the budget {found['budget']}: give those options, or another --out"
            )
        for each in found["runs"]:
            run = Run.from_dict(each)
            self.runs[run.arm, run.seed] = run

    def add(self, run: Run) -> None:
        """Keep a run, in place of one of the same arm and seed; the file is never half written.

        Runs that another process has added to the file since are kept.
        """
        with self._writing:
            self._read()
            self.runs[run.arm, run.seed] = run
            whole = {"budget": self._budget, "runs": [each.to_dict() for each in self.ordered()]}
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file, json.dumps(whole, indent=1) + "\n")

    def ordered(self) -> list[Run]:
        """Runs by arm and seed."""
        places = {arm: place for place, arm in enumerate(self._arms)}
        return sorted(self.runs.values(), key=lambda run: (places.get(run.arm, len(places)), run.seed))

    def arms(self, families: Sequence[str] = FAMILIES) -> dict[str, list[Run]]:
        """Runs of each arm with held-out tasks of these types."""
        found: dict[str, list[Run]] = {}
        for run in self.ordered():
            if set(run.families) <= set(families):
                found.setdefault(run.arm, []).append(run)
        return found
