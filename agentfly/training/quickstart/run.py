"""Run the quickstart: from a warm start to a policy trained by reinforcement, on any machine, with a report.

Warm start, evaluation, verl training, evaluation, report: each heavy part has a process of its own. The trainer starts
while the warm start is evaluated. One folder has everything that a run leaves.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.text import Text

from agentfly.agents import Trajectory
from agentfly.agents.display.strip import Step, write_steps
from agentfly.agents.policy_config import PolicyConfig
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.datasets import FAMILIES, EditTask, StickerWorld
from agentfly.errors import TrainingError, printable
from agentfly.evaluation.in_memory import Evaluation, paired_difference
from agentfly.evaluators.bootstrap import SUCCESS, estimate
from agentfly.files import check_replaceable, write_text
from agentfly.images import ImageStore, load_image
from agentfly.provenance import installed_versions
from agentfly.settings import Settings
from agentfly.training.launch.checkpoints import export_policy
from agentfly.training.launch.launcher import TrainingOutcome, launch
from agentfly.training.launch.log_reader import LineReader, Phase
from agentfly.training.launch.prepare import prepare
from agentfly.training.launch.subprocess_phase import OnProgress, PhaseProcess, ProgressDisplay, run_phase
from agentfly.training.quickstart.evaluation import EvaluationPlan, evaluate_policy, read_evaluation
from agentfly.training.quickstart.report import Example, Report, StepRecord, learning_curve, write_report
from agentfly.training.quickstart.warm_start import (
    WarmStartConfig,
    copy_shipped,
    is_begun,
    is_warm_start,
    shipped_warm_start,
    warm_start,
)
from agentfly.training.recipe.checks import RAY_ADDRESS
from agentfly.training.recipe.compose import CONFIG_DIR, compose, to_override
from agentfly.training.recipe.verl_dataset import write_rows
from agentfly.viewer.command import view_command

_CORRECT = 95.0  # a score that only the edit that was asked for gets
_EXAMPLES = 2  # successes, and failures, of each family
_LABELS = {"trained": "trained", "warm start": "warm_start"}  # of the runs of an example, with their folders


def write_run_report(
    out: Path, summary: Mapping[str, object], records: Sequence[StepRecord], plan: EvaluationPlan
) -> None:
    """Write `learning_curve.png`, `edit.png` and `report.html` into a run's folder.

    Args:
        out: folder of the run, with its evaluations.
        summary: content of the run's `summary.json`.
        records: figures of the training steps, in order.
        plan: of the evaluations.
    """
    title = f"{summary['algorithm']} on stickers, seed {summary['seed']}"
    passes = {label: read_evaluation(out / "evaluation" / folder / "greedy.jsonl") for label, folder in _LABELS.items()}
    curve = learning_curve(
        records,
        out / "learning_curve.png",
        title=title,
        warm_start=estimate(passes["warm start"].scores()),
        trained=estimate(passes["trained"].scores()),
    )
    stores = {label: ImageStore(out / "evaluation" / folder / "images") for label, folder in _LABELS.items()}

    def example_of(index: int, task: EditTask) -> Example:
        found = [(label, passes[label].trajectories[index]) for label in _LABELS]
        runs = [(label, t, stores[label].get(t.final_image) if t.final_image else None) for label, t in found]
        target = load_image(task.target) if task.target is not None else None
        return Example(task.task_type, task.instruction, load_image(task.images[0]), target, runs)

    trained = passes["trained"].trajectories
    kept = list(enumerate(plan.tasks()))[: plan.kept_per_family * len(plan.families)]
    examples: list[Example] = []
    for family in plan.families:
        of_family = [row for row in kept if row[1].task_type == family]
        good = [row for row in of_family if (trained[row[0]].score or 0.0) >= SUCCESS][:_EXAMPLES]
        bad = [row for row in of_family if (trained[row[0]].score or 0.0) < SUCCESS][:_EXAMPLES]
        examples += [example_of(*row) for row in (*good, *bad)]
    write_report(out / "report.html", Report(f"agentfly: {title}", summary, curve, examples))
    _write_strip(examples, out / "edit.png")


def _write_strip(examples: Sequence[Example], path: Path) -> None:
    """Draw the example that shows the gain best, if the trained policy succeeded in any."""

    def gain(example: Example) -> tuple[bool, float]:
        """Prefer examples with an image of both policies, the trained one's correct; then the larger gain in score."""
        (_, trained, _), (_, before, image_before) = example.runs
        after = trained.score or 0.0
        return image_before is not None and after >= _CORRECT, after - (before.score or 0.0)

    successes = [example for example in examples if (example.runs[0][1].score or 0.0) >= SUCCESS]
    if successes:
        example = max(successes, key=gain)
        steps = [Step(example.instruction, example.source)]
        steps += [Step(f"{label}: {t.score or 0.0:.0f}", image) for label, t, image in reversed(example.runs) if image]
        write_steps(steps, path, side=168)


ESTIMATORS = {"grpo": "grpo", "ppo": "gae"}
QUICKSTART = CONFIG_DIR / "stickers.yaml"
RECORD = "quickstart.json"  # settings of the run, written first; only a folder that has it is replaced
WARM_START = "warm_start"
Origin = Literal["shipped", "made", "kept"]
DIFFERENCE = "training/rollout_probs_diff_max"
DIFFERENCE_LIMIT = 1e-3  # on a CPU in fp32, rollout and trainer compute the same probabilities


class QuickstartConfig(Settings):
    """Settings of a quickstart run.

    Attributes:
        out: folder of the run; an earlier run there is replaced, except its warm start if the settings are the same.
        seed: of data, weights and sampling.
        algorithm: "grpo" or "ppo" (with critic).
        from_scratch: make the warm start here even where the repository has it.
        tasks: training tasks in the file.
        overrides: of `config/stickers.yaml`, which has the settings of the reinforcement part.
        warm_start: settings of the warm start.
        evaluation: tasks and passes of both evaluations.
    """

    out: Path = Path("runs/quickstart")
    seed: int = 0
    algorithm: Literal["grpo", "ppo"] = "grpo"
    from_scratch: bool = False
    warm_start: WarmStartConfig = WarmStartConfig()
    tasks: int = 384
    overrides: tuple[str, ...] = ()
    evaluation: EvaluationPlan = EvaluationPlan()


def run_quickstart(
    config: QuickstartConfig, console: Console | None = None, on_begin: Callable[[], None] = lambda: None
) -> dict[str, object]:
    """Run everything and return the summary, which is also in `summary.json`.

    Args:
        config: see `QuickstartConfig`.
        console: for the progress.
        on_begin: called once the folder of the run is there, so that others may look at it.

    Raises:
        ConfigError: `out` holds something else than a run.
        TrainingError: a part failed; the message names it and its log.
    """
    return _Quickstart(config, console or Console()).run(on_begin)


def write_training_data(folder: Path, count: int, seed: int, on_progress: OnProgress) -> None:
    """Write the training tasks, families in turn, and a few for the validation file that verl insists on.

    Args:
        folder: gets `train.parquet` and `validation.parquet`.
        count: training tasks.
        seed: of the tasks.
        on_progress: called with "data" and the number of tasks, done and in total.
    """
    world, tasks = StickerWorld(), []
    for index in range(count):
        tasks.append(world.task(1_000_000 + index, "train", FAMILIES[index % len(FAMILIES)], seed=seed))
        on_progress("data", index + 1, count)
    write_rows(tasks, folder, "train")
    write_rows(tasks[: len(FAMILIES)], folder, "validation")


class _Quickstart:
    """One run: its folder, its clock and its progress."""

    def __init__(self, config: QuickstartConfig, console: Console) -> None:
        self._config, self._console, self._out = config, console, config.out.absolute()
        self._warm = config.warm_start.model_copy(update={"seed": config.seed})
        self._seconds: dict[str, float] = {}
        self._records: list[StepRecord] = []

    def run(self, on_begin: Callable[[], None]) -> dict[str, object]:
        """Run all parts and return the summary."""
        began, out = time.monotonic(), self._out
        self._clear_folder()
        self._console.print(Text(printable(f"logs: {out / 'logs'}")))
        on_begin()
        with ProgressDisplay(self._console) as display, ThreadPoolExecutor(1) as beside:
            origin = self._warm_start(display)
            with PhaseProcess() as evaluator:
                evaluation = beside.submit(self._evaluate, display, evaluator, "warm_start")
                data = {"folder": out / "data", "count": self._config.tasks, "seed": self._config.seed}
                self._phase(display, "data", write_training_data, data)
                outcome = self._train(display, evaluation)
                evaluation.result()
                if outcome.checkpoint is None:
                    raise TrainingError(f"training left no checkpoint; see {outcome.log_file}")
                export_policy(outcome.checkpoint, out / "policy")
                PolicyConfig.read(str(out / WARM_START)).write(out / "policy")
                self._evaluate(display, evaluator, "trained")
        passes = {
            label: {name: self._read_pass(label, name) for name in ("greedy", "sampled")}
            for label in ("warm_start", "trained")
        }
        summary = self._summary(passes, outcome, origin, (time.monotonic() - began) / 60)
        text = json.dumps(summary, indent=2, ensure_ascii=False)
        write_text(out / "summary.json", text + "\n")
        write_run_report(out, summary, self._records, self._config.evaluation)
        self._print_result(passes["warm_start"]["greedy"], passes["trained"]["greedy"], summary)
        return summary

    def _clear_folder(self) -> None:
        """Remove an earlier run, except a warm start of the same settings, finished or not."""
        check_replaceable(self._out, RECORD, "run of the quickstart")
        warm = self._out / WARM_START
        kept = {RECORD, *([WARM_START] if is_warm_start(warm, self._warm) or is_begun(warm, self._warm) else [])}
        for path in self._out.iterdir() if self._out.is_dir() else ():
            if path.name in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        (self._out / "logs").mkdir(parents=True)
        write_text(self._out / RECORD, self._config.model_dump_json(indent=2) + "\n")

    def _warm_start(self, display: ProgressDisplay) -> Origin:
        """Make, keep or copy the warm start, and return which of these was done."""
        folder, warm, config = self._out / WARM_START, self._warm, self._config
        if is_warm_start(folder, warm):
            display.say(f"warm start: the one of an earlier run, {folder}")
            return "kept"
        if not config.from_scratch and (shipped := shipped_warm_start(warm)) is not None:
            copy_shipped(shipped, folder)
            display.say(f"warm start: the one that comes with the repository, {shipped} (FROM_SCRATCH=1 makes it here)")
            return "shipped"
        display.say("warm start: resuming an unfinished one" if is_begun(folder, warm) else "warm start: made here")
        self._phase(display, "warm start", warm_start, {"config": warm, "folder": folder})
        return "made"

    def _phase(
        self,
        display: ProgressDisplay,
        name: str,
        function: Callable[..., object],
        arguments: Mapping[str, object],
        process: PhaseProcess | None = None,
    ) -> None:
        """Run a function in a process of its own, or in `process`, with its progress on the display."""

        def show(part: str, done: int, total: int) -> None:
            display.update(name if part in name else f"{name}, {part}", done, total)

        display.update(name, 0, 1)
        log = self._out / "logs" / f"{name.replace(' ', '_')}.log"
        run = run_phase if process is None else process.run
        self._seconds[name] = run(function, arguments, log=log, on_progress=show)

    def _evaluate(self, display: ProgressDisplay, evaluator: PhaseProcess, label: str) -> None:
        # The held-out tasks do not depend on the seed of the run.
        plan = self._config.evaluation.model_copy(update={"blanked": label == "trained"})
        folder = "policy" if label == "trained" else label
        arguments = {"policy": self._out / folder, "out": self._out / "evaluation" / label, "plan": plan}
        self._phase(display, f"evaluation of {label.replace('_', ' ')}", evaluate_policy, arguments, evaluator)

    def _train(self, display: ProgressDisplay, beside: Future[None]) -> TrainingOutcome:
        """Train with verl; a failure of `beside`, which runs at the same time, ends the training."""
        config, name = self._config, self._config.algorithm
        values = {
            "agentfly.model": self._out / WARM_START,
            "agentfly.out": self._out / "training",
            "agentfly.seed": config.seed,
            "agentfly.data.train": self._out / "data" / "train.parquet",
            "agentfly.data.validation": self._out / "data" / "validation.parquet",
            "algorithm.adv_estimator": ESTIMATORS[name],
        }
        overrides = [*(to_override(key, value) for key, value in values.items()), *config.overrides]
        os.environ.pop(RAY_ADDRESS, None)  # a first run needs nothing but this machine
        run = prepare(compose(QUICKSTART, overrides))
        began, log = time.monotonic(), LineReader(self._out / "training" / "trajectories.jsonl")

        def on_phase(phase: Phase) -> None:
            if beside.done():
                beside.result()
            # The start is a part of its own: the time that is left for the steps follows from steps alone.
            phases = get_args(Phase)
            display.update(f"start of {name}", phases.index(phase), len(phases) - 1, note=phase)
            if phase == phases[-1]:
                display.update(name, 0, run.steps)

        def on_step(step: int, metrics: Mapping[str, float]) -> None:
            if beside.done():
                beside.result()
            chains = [TrajectoryLine.from_dict(json.loads(line)).trajectory for line in log.new_lines()]
            record = _step_record(step, time.monotonic() - began, metrics, chains)
            self._records.append(record)
            if (difference := metrics.get(DIFFERENCE, 0.0)) > DIFFERENCE_LIMIT:
                display.say(f"step {step}: rollout and trainer differ by {difference:.1e} in probability")
            display.update(name, step, run.steps, note=f"reward {record.reward:.2f}, score {record.score:.0f}")

        outcome = launch(run, on_step=on_step, on_phase=on_phase, on_notice=display.say)
        self._seconds["training start"] = sum(s for phase, s in outcome.phase_seconds.items() if phase != "training")
        self._seconds["training"] = outcome.phase_seconds["training"]
        return outcome

    def _read_pass(self, label: str, name: str) -> Evaluation:
        return read_evaluation(self._out / "evaluation" / label / f"{name}.jsonl")

    def _summary(
        self, passes: Mapping[str, Mapping[str, Evaluation]], outcome: TrainingOutcome, origin: Origin, minutes: float
    ) -> dict[str, object]:
        families = {"all": None, **{family: family for family in self._config.evaluation.families}}
        gain = {
            name: {
                label: paired_difference(passes["warm_start"][name], passes["trained"][name], family).to_dict()
                for label, family in families.items()
            }
            for name in ("greedy", "sampled")
        }
        summaries = {label: {name: found.summary() for name, found in both.items()} for label, both in passes.items()}
        differences = [metrics[DIFFERENCE] for _, metrics in outcome.metrics if DIFFERENCE in metrics]
        return {
            "algorithm": self._config.algorithm,
            "seed": self._config.seed,
            "steps": outcome.steps,
            "warm_start_origin": origin,
            "minutes": round(minutes, 1),
            # Plain means; their intervals are in the summaries of the passes.
            **{
                label: {
                    "success": {family: found["mean"] for family, found in both["greedy"]["success"].items()},
                    "score": both["greedy"]["score"]["mean"],
                    **both,
                }
                for label, both in summaries.items()
            },
            "gain": gain,
            "blanked": {
                "trained": {"look": estimate(self._read_pass("trained", "blanked").scores() >= SUCCESS).to_dict()},
                # The right one of six colours by guessing; everything else in the call is right.
                "chance": round(1 / 6, 3),
            },
            "rollout_actor_diff_max": max(differences, default=None),
            "seconds": {name: round(seconds, 1) for name, seconds in self._seconds.items()},
            "versions": installed_versions(),
        }

    def _print_result(self, before: Evaluation, after: Evaluation, summary: Mapping[str, object]) -> None:
        gain = paired_difference(before, after)
        self._console.print(
            f"[bold]held-out score {before.scores().mean():.1f} → {after.scores().mean():.1f}[/bold] "
            f"(gain {gain.mean:.1f}, 95 % interval {gain.low:.1f} to {gain.high:.1f}) "
            f"with {summary['algorithm']} in {summary['minutes']} minutes",
            highlight=False,
        )
        for name in ("report.html", "learning_curve.png", "summary.json", "policy"):
            self._console.print(Text(printable(f"  {self._out / name}")))
        self._console.print(Text(printable(view_command(self._config.out))))


def _step_record(step: int, seconds: float, metrics: Mapping[str, float], chains: Sequence[Trajectory]) -> StepRecord:
    """Return the figures of a step: verl's reward, and means over its chains."""
    scores = [chain.score or 0.0 for chain in chains]
    count = max(1, len(scores))
    return StepRecord(
        step=step,
        seconds=seconds,
        reward=metrics.get("critic/rewards/mean", sum(chain.reward or 0.0 for chain in chains) / count),
        score=sum(scores) / count,
        success=sum(score >= SUCCESS for score in scores) / count,
        tool_calls=sum(len(chain.tool_records) for chain in chains) / count,
        extra={
            "step_seconds": metrics.get("timing_s/step", 0.0),
            "entropy": metrics.get("actor/entropy", 0.0),
            "probability_difference": metrics.get(DIFFERENCE, 0.0),
        },
    )
