"""What is learned with which algorithm: held-out success by task type against steps and minutes, on the sticker world.

    python benchmarks/learning.py [--arms ppo,grpo] [--seeds 0,1,2] [--out runs/learning] [--blanked]

Every arm of a seed starts from the same warm start, draws the same tasks and gets the same budget: steps x prompts x
samples. verl validates the policy within the run, greedily, on tasks that training never shows: other photographs,
other layouts, other sentences. Minutes are those of the training steps; validation and the start of the processes are
not in them. What is done stands in `learning.json`, and is not done again: a long benchmark can be run in pieces, and
goes on where it was stopped. An interval is Student's t over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from agentfly.datasets import FAMILIES, StickerWorld
from agentfly.errors import AgentFlyError, ConfigError, unknown_name
from agentfly.evaluators.estimates import SUCCESS
from agentfly.training.checkpoints import export_policy
from agentfly.training.compose import CONFIG_DIR, to_override
from agentfly.training.launch import TrainingOutcome, launch
from agentfly.training.phase import OnProgress, run_phase
from agentfly.training.policy_evaluation import EvaluationPlan, evaluate_policy, read_evaluation
from agentfly.training.prepare import prepare
from agentfly.training.rows import write_rows
from agentfly.training.warm_start import WarmStartConfig, warm_start

RECIPE = CONFIG_DIR / "stickers.yaml"
ALL = "all"
# A critic has some hundred returns a step to learn from, and starts at zero: it takes four small steps on each batch
# twice, and the policy waits until it has seen two batches.
CRITIC = ("trainer.critic_warmup=3", "critic.optim.lr=1e-3", "critic.ppo_epochs=2", "critic.cliprange_value=10")
ARMS: Mapping[str, tuple[str, ...]] = {
    "ppo": ("algorithm.adv_estimator=gae", "algorithm.gamma=1.0", "algorithm.lam=1.0", *CRITIC),
    "grpo": ("algorithm.adv_estimator=grpo",),
    "rloo": ("algorithm.adv_estimator=rloo",),
    "reinforce_plus_plus": ("algorithm.adv_estimator=reinforce_plus_plus",),
    "one_call": ("algorithm.adv_estimator=grpo", "agentfly.limits.max_turns=1", "agentfly.limits.max_tool_calls=1"),
    "turn_credit": ("algorithm.adv_estimator=turn_grpo", "agentfly.credit=end"),
    "no_tool_cost": ("algorithm.adv_estimator=grpo", "agentfly.reward.tool_cost=0"),
    "turn_credit_no_tool_cost": (
        "algorithm.adv_estimator=turn_grpo",
        "agentfly.credit=end",
        "agentfly.reward.tool_cost=0",
    ),
}
# What is asked of the arms, seed by seed: the first against the second.
QUESTIONS = (
    ("grpo", "one_call"),
    ("ppo", "grpo"),
    ("turn_credit", "grpo"),
    ("no_tool_cost", "grpo"),
    ("turn_credit_no_tool_cost", "turn_credit"),
)
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
}
HELD_OUT = ("success", "score", "tool_calls")
# Student's t at 0.975 for 1, 2, ... degrees of freedom; the last one serves for more, on the safe side.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Budget:
    """What every arm of every seed gets.

    Attributes:
        steps, prompts, samples: training steps, tasks of a step, chains of a task.
        test_tasks: held-out tasks, as many of each task type.
        test_every: steps between validations.
    """

    steps: int = 24
    prompts: int = 8
    samples: int = 8
    test_tasks: int = 60
    test_every: int = 6

    def overrides(self) -> list[str]:
        """The budget in verl's keys."""
        values = {
            "trainer.total_training_steps": self.steps,
            "data.train_batch_size": self.prompts,
            "actor_rollout_ref.rollout.n": self.samples,
            "critic.ppo_mini_batch_size": max(1, self.prompts // 4) if self.prompts % 4 == 0 else self.prompts,
            "trainer.val_before_train": True,
            "trainer.test_freq": self.test_every,
        }
        return [to_override(key, value) for key, value in values.items()]


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
        blanked: success on the look tasks, seeing and with grey pictures; None where it was not asked for.
    """

    arm: str
    seed: int
    overrides: Sequence[str]
    validations: Sequence[Validation]
    steps: Sequence[Mapping[str, float]]
    start_seconds: Mapping[str, float] = field(default_factory=dict)
    blanked: Mapping[str, float] | None = None

    @property
    def minutes(self) -> float:
        """Minutes of training."""
        return self.validations[-1].minutes

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
        names = {family: f"val-aux/{family}/{figure}/mean@1" for family in FAMILIES}
        by_family = {family: values[name] for family, name in names.items() if name in values}
        if by_family:
            found[figure] = {ALL: statistics.fmean(by_family.values()), **by_family}
    return found if "success" in found else {}


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and half the width of its 95 % interval; NaN for fewer than two seeds."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.0f}" if math.isnan(self.half) else f"{self.mean:.0f} ± {self.half:.0f}"


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
    """What was measured so far, in a file.

    Args:
        file: JSON, made with the first result.
        budget: of every run in it.

    Raises:
        ConfigError: the file has runs of another budget.
    """

    def __init__(self, file: Path, budget: Budget) -> None:
        self._file, self._budget = file, budget
        self.runs: dict[tuple[str, int], Run] = {}
        if not file.exists():
            return
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["budget"] != asdict(budget):
            raise ConfigError(f"{file} has runs of the budget {found['budget']}: give those options, or another --out")
        for each in found["runs"]:
            run = Run.from_dict(each)
            self.runs[run.arm, run.seed] = run

    def add(self, run: Run) -> None:
        """Keep a run, in place of one of the same arm and seed; the file is never half written."""
        self.runs[run.arm, run.seed] = run
        whole = {"budget": asdict(self._budget), "runs": [each.to_dict() for each in self.ordered()]}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self._file)

    def ordered(self) -> list[Run]:
        """Runs by arm, in the order of `ARMS`, and seed."""
        places = {arm: place for place, arm in enumerate(ARMS)}
        return sorted(self.runs.values(), key=lambda run: (places.get(run.arm, len(places)), run.seed))

    def arms(self) -> dict[str, list[Run]]:
        """Runs of each arm."""
        found: dict[str, list[Run]] = {}
        for run in self.ordered():
            found.setdefault(run.arm, []).append(run)
        return found


def make_warm_start(config: WarmStartConfig, folder: Path, on_progress: OnProgress | None = None) -> None:
    """`warm_start` as a phase, which returns nothing."""
    warm_start(config, folder, on_progress)


class Laboratory:
    """Makes the runs.

    Args:
        out: folder of everything.
        budget: of each run.
        given: warm start of every seed; each seed gets one of its own when None.
        blanked: whether the trained policies are evaluated on grey pictures too.
        overrides: of an arm, after its own.
    """

    def __init__(
        self,
        out: Path,
        budget: Budget,
        given: Path | None = None,
        *,
        blanked: bool = False,
        overrides: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._out, self._budget, self._given = out.absolute(), budget, given
        self._blanked, self._overrides = blanked, overrides or {}

    def run(self, arm: str, seed: int, tell: Callable[[str], None]) -> Run:
        """Train an arm with a seed.

        Raises:
            AgentFlyError: it failed.
        """
        policy, out = self._warm_start(seed, tell), self._out / f"{arm}-{seed}"
        train, held_out = self._tasks(seed)
        own = [*ARMS[arm], *self._overrides.get(arm, ())]
        values = {
            "agentfly.model": policy,
            "agentfly.out": out,
            "agentfly.seed": seed,
            "agentfly.data.train": train,
            "agentfly.data.validation": held_out,
            "trainer.save_freq": self._budget.steps if self._blanked else -1,
        }
        given = [to_override(key, value) for key, value in values.items()]
        shutil.rmtree(out, ignore_errors=True)  # of a run that was stopped half way
        what = prepare(RECIPE, [*given, *self._budget.overrides(), *own])
        outcome = launch(what, on_step=lambda step, metrics: tell(_line(step, metrics)))
        validations, steps = read_metrics(outcome.metrics)
        start = {str(phase): seconds for phase, seconds in outcome.phase_seconds.items() if phase != "training"}
        blanked = self._look(policy, outcome, out) if self._blanked else None
        return Run(arm, seed, own, validations, steps, start, blanked)

    def _warm_start(self, seed: int, tell: Callable[[str], None]) -> Path:
        if self._given is not None:
            return self._given.absolute()
        folder = self._out / f"warm_start-{seed}"
        if not (folder / "agentfly.json").exists():  # the last that is written
            tell(f"warm start of seed {seed}")
            arguments = {"config": WarmStartConfig(seed=seed), "folder": folder}
            run_phase(make_warm_start, arguments, log=self._out / "logs" / f"warm_start-{seed}.log", timeout=3600)
        return folder

    def _tasks(self, seed: int) -> tuple[Path, Path]:
        """Files of the training tasks of a seed, and of the held-out tasks, which are the same for all."""
        budget, world, folder = self._budget, StickerWorld(), self._out / "data"
        each = budget.test_tasks // len(FAMILIES)
        held_out = folder / f"heldout-{budget.test_tasks}.parquet"
        if not held_out.exists():
            write_rows(EvaluationPlan(tasks_per_family=each).tasks(), folder, held_out.stem)
        count = budget.steps * budget.prompts
        train = folder / f"train-{seed}-{count}.parquet"
        if not train.exists():
            families = [FAMILIES[n % len(FAMILIES)] for n in range(count)]
            tasks = (world.task(1_000_000 + n, "train", name, seed=seed) for n, name in enumerate(families))
            write_rows(tasks, folder, train.stem)
        return train, held_out

    def _look(self, policy: Path, outcome: TrainingOutcome, out: Path) -> dict[str, float]:
        """Success of the trained policy on look tasks: with its eyes, and with grey pictures."""
        if outcome.checkpoint is None:
            raise ConfigError(f"training left no checkpoint to evaluate; see {outcome.log_file}")
        trained = export_policy(outcome.checkpoint, out / "policy")
        if (card := policy / "agentfly.json").exists():
            (trained / card.name).write_bytes(card.read_bytes())
        plan = EvaluationPlan(tasks_per_family=100, families=("look",), kept_per_family=0, blanked=True)
        arguments = {"policy": trained, "out": out / "evaluation", "plan": plan}
        run_phase(evaluate_policy, arguments, log=out / "logs" / "evaluation.log", timeout=1800)
        names = {"seeing": "greedy", "blanked": "blanked"}
        passes = {name: read_evaluation(out / "evaluation" / f"{file}.jsonl") for name, file in names.items()}
        return {name: float((found.scores() >= SUCCESS).mean()) for name, found in passes.items()}


def _line(step: int, metrics: Mapping[str, float]) -> str:
    words = [f"  step {step}"]
    for name in ("reward", "explained_variance", "seconds"):
        if STEP_FIGURES[name] in metrics:
            words.append(f"{name.replace('_', ' ')} {metrics[STEP_FIGURES[name]]:.2f}")
    if figures := held_out_figures(metrics):
        words.append("held-out success " + ", ".join(f"{name} {v:.0%}" for name, v in figures["success"].items()))
    return "  ".join(words)


def markdown(results: Results) -> str:
    """Tables of what was measured."""
    return "\n".join([*_arm_table(results), "", *_question_table(results), "", *_look_table(results)]).strip() + "\n"


def _arm_table(results: Results) -> list[str]:
    columns = (ALL, *FAMILIES)
    lines = [
        "Held-out success in per cent, before → after, mean ± 95 % over seeds:",
        "",
        "| arm | seeds | " + " | ".join(columns) + " | minutes |",
        "|---|" + "---|" * (len(columns) + 2),
    ]
    for arm, runs in results.arms().items():
        cells = []
        for family in columns:
            before, after = (interval(run.at(which, family) for run in runs) for which in (0, -1))
            cells.append(f"{before.mean:.0f} → {after}")
        minutes = statistics.fmean(run.minutes for run in runs)
        lines.append(f"| {arm} | {len(runs)} | {' | '.join(cells)} | {minutes:.1f} |")
    return lines


def _question_table(results: Results) -> list[str]:
    """What an arm has over another, in points of success after training, seed by seed; and over its own warm start."""
    columns, arms = (ALL, *FAMILIES), results.arms()
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


def _look_table(results: Results) -> list[str]:
    rows = []
    for arm, runs in results.arms().items():
        found = [run.blanked for run in runs if run.blanked is not None]
        if found:
            cells = [str(interval(100 * each[name] for each in found)) for name in ("seeing", "blanked")]
            rows.append(f"| {arm} | {len(found)} | {' | '.join(cells)} |")
    head = ["Success on *look* after training, per cent:", "", "| arm | seeds | seeing | grey pictures |"]
    return [*head, "|---|---|---|---|", *rows] if rows else []


def curves(results: Results, axis: str, path: Path) -> Path:
    """Draw held-out success of every arm against "step" or "minutes", a panel a task type; a band is the interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: its global state would outlive the call and pick a display.
    figure = Figure(figsize=(11, 6.2), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for panel, family in zip(panels, (ALL, *FAMILIES), strict=True):
        for number, (arm, runs) in enumerate(results.arms().items()):
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
    """`learning.md` and the plots `learning-step.png` and `learning-minutes.png`."""
    (out / "learning.md").write_text(markdown(results), encoding="utf-8")
    for axis in ("step", "minutes"):
        curves(results, axis, out / f"learning-{axis}.png")


def benchmark(
    results: Results,
    pairs: Sequence[tuple[str, int]],
    make: Callable[[str, int, Callable[[str], None]], Run],
    console: Console,
) -> list[str]:
    """Make the runs that are missing, and keep each as soon as it is done; returns what failed."""
    failed = []
    for arm, seed in pairs:
        if (arm, seed) in results.runs:
            console.print(f"{arm}, seed {seed}: done before", highlight=False)
            continue
        console.print(f"{arm}, seed {seed}", highlight=False)
        try:
            results.add(make(arm, seed, lambda line: console.print(line, highlight=False, soft_wrap=True)))
        except AgentFlyError as fault:
            failed.append(f"{arm}, seed {seed}: {fault}")
            console.print(failed[-1], markup=False, highlight=False, soft_wrap=True)
    return failed


def _arms(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in ARMS:
            raise argparse.ArgumentTypeError(unknown_name("arm", name, ARMS))
    return names


def _override(text: str) -> tuple[str, str]:
    arm, colon, override = text.partition(":")
    if not colon or "=" not in override:
        raise argparse.ArgumentTypeError(f"{text!r} is not ARM:key=value")
    return _arms(arm)[0], override


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="folder of everything")
    parser.add_argument("--arms", type=_arms, default=list(ARMS), help=", ".join(ARMS))
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--warm-start", type=Path, help="policy that every seed starts from; else one a seed is made")
    parser.add_argument("--override", type=_override, action="append", default=[], metavar="ARM:key=value")
    parser.add_argument("--blanked", action="store_true", help="evaluate the trained policies on grey pictures too")
    for name, words in (
        ("steps", "training steps"),
        ("prompts", "tasks of a step"),
        ("samples", "chains of a task"),
        ("test-tasks", f"held-out tasks, a multiple of {len(FAMILIES)}"),
        ("test-every", "steps between validations"),
    ):
        default = getattr(Budget(), name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{words} (default {default})")
    return parser


def main() -> None:
    """Run what is missing, and report on all that there is."""
    parser, console = _parser(), Console()
    given = parser.parse_args()
    if given.test_tasks < 1 or given.test_tasks % len(FAMILIES):
        parser.error(f"--test-tasks must be a multiple of {len(FAMILIES)}: as many of each task type")
    budget = Budget(given.steps, given.prompts, given.samples, given.test_tasks, given.test_every)
    overrides: dict[str, list[str]] = {}
    for arm, override in given.override:
        overrides.setdefault(arm, []).append(override)
    try:
        results = Results(given.out / "learning.json", budget)
    except ConfigError as fault:
        parser.error(str(fault))
    laboratory = Laboratory(given.out, budget, given.warm_start, blanked=given.blanked, overrides=overrides)
    pairs = [(arm, seed) for seed in given.seeds for arm in given.arms]
    failed = benchmark(results, pairs, laboratory.run, console)
    if results.runs:
        write_report(results, given.out)
        console.print(markdown(results), markup=False, highlight=False, soft_wrap=True)
    if failed:
        sys.exit("\n".join(["not done:", *failed]))


if __name__ == "__main__":
    main()
