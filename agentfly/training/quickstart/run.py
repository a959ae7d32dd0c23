"""From a warm start to a policy that learned by reinforcement, on any machine, with a report of what it learned.

Warm start, evaluation, verl training, evaluation, report: each heavy part in a process of its own. The trainer starts
while the warm start is evaluated. Everything a run leaves is in one folder.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict
from rich.console import Console

from agentfly.agents.policy_config import AgentCard
from agentfly.datasets import FAMILIES, StickerWorld
from agentfly.errors import TrainingError
from agentfly.evaluation.in_memory import Evaluation, paired_difference
from agentfly.evaluators.bootstrap import SUCCESS, estimate
from agentfly.files import check_replaceable, write_text
from agentfly.training.launch.checkpoints import export_policy
from agentfly.training.launch.launcher import Launch, TrainingOutcome, launch
from agentfly.training.launch.log_reader import LineReader, Phase
from agentfly.training.launch.prepare import prepare
from agentfly.training.launch.progress_display import ProgressDisplay
from agentfly.training.launch.subprocess_phase import OnProgress, PhaseProcess, run_phase
from agentfly.training.quickstart.evaluation import EvaluationPlan, evaluate_policy, read_evaluation
from agentfly.training.quickstart.report import write_run_report
from agentfly.training.quickstart.warm_start import (
    WarmStartConfig,
    copy_shipped,
    is_begun,
    is_warm_start,
    shipped_warm_start,
    warm_start,
)
from agentfly.training.recipe.compose import CONFIG_DIR, to_override
from agentfly.training.recipe.verl_dataset import write_rows
from agentfly.viewer import StepRecord

ESTIMATORS = {"grpo": "grpo", "ppo": "gae"}
QUICKSTART = CONFIG_DIR / "stickers.yaml"
RECORD = "quickstart.json"  # settings of the run, written first; only a folder that has it is replaced
WARM_START = "warm_start"
Origin = Literal["shipped", "made", "kept"]
VERSIONS = ("agentfly-rl", "torch", "transformers", "verl", "vllm", "ray")
DIFFERENCE = "training/rollout_probs_diff_max"
DIFFERENCE_LIMIT = 1e-3  # on a CPU in fp32, rollout and trainer compute the same probabilities


class QuickstartConfig(BaseModel):
    """A quickstart run.

    Attributes:
        out: folder of the run; an earlier run there is replaced, except its warm start if that would be made again.
        seed: of data, weights and sampling.
        algorithm: "grpo" or "ppo" (with critic).
        from_scratch: make the warm start here even where the repository has it.
        tasks: training tasks in the file.
        overrides: of `config/stickers.yaml`, which holds the settings of the reinforcement part.
        warm_start, evaluation: settings of the other parts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path = Path("runs/quickstart")
    seed: int = 0
    algorithm: Literal["grpo", "ppo"] = "grpo"
    from_scratch: bool = False
    warm_start: WarmStartConfig = WarmStartConfig()
    tasks: int = 384
    overrides: tuple[str, ...] = ()
    evaluation: EvaluationPlan = EvaluationPlan()


def run_quickstart(config: QuickstartConfig, console: Console | None = None) -> dict[str, Any]:
    """Run everything and return the summary, which is also in `summary.json`.

    Raises:
        ConfigError: `out` holds something else than a run.
        TrainingError: a part failed; the message names it and its log.
    """
    return _Quickstart(config, console or Console()).run()


def write_training_data(folder: Path, count: int, seed: int, on_progress: OnProgress) -> None:
    """Write the training tasks, families in turn, and a few for the validation file that verl insists on."""
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

    def run(self) -> dict[str, Any]:
        began, out = time.monotonic(), self._out
        self._make_room()
        self._console.print(f"logs: {out / 'logs'}", highlight=False)
        with ProgressDisplay(self._console) as display, ThreadPoolExecutor(1) as beside:
            origin = self._warm_start(display)
            with PhaseProcess() as evaluator:
                evaluation = beside.submit(self._evaluate, display, evaluator, "warm_start")
                data = {"folder": out / "data", "count": self._config.tasks, "seed": self._config.seed}
                self._phase(display, "data", write_training_data, data)
                outcome = self._train(display, evaluation)
                evaluation.result()
                export_policy(self._require(outcome), out / "policy")
                AgentCard.read(str(out / WARM_START)).write(out / "policy")
                self._evaluate(display, evaluator, "trained")
        summary = self._summary(outcome, origin, (time.monotonic() - began) / 60)
        text = json.dumps(summary, indent=2, ensure_ascii=False)
        (out / "summary.json").write_text(text + "\n", encoding="utf-8")
        write_run_report(out, summary, self._records, self._config.evaluation)
        self._tell(summary)
        return summary

    def _make_room(self) -> None:
        """Remove an earlier run, except a warm start that would be made again, or that was stopped on the way."""
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
        """Make, keep or copy the warm start, and say which."""
        folder, warm, config = self._out / WARM_START, self._warm, self._config
        if is_warm_start(folder, warm):
            display.say(f"warm start: the one of an earlier run, {folder}")
            return "kept"
        if not config.from_scratch and (shipped := shipped_warm_start(warm)) is not None:
            copy_shipped(shipped, folder)
            display.say(f"warm start: the one that comes with the repository, {shipped} (FROM_SCRATCH=1 makes it here)")
            return "shipped"
        display.say(
            "warm start: going on with one that was stopped" if is_begun(folder, warm) else "warm start: made here"
        )
        self._phase(display, "warm start", warm_start, {"config": warm, "folder": folder})
        return "made"

    def _phase(
        self,
        display: ProgressDisplay,
        name: str,
        function: Any,
        arguments: dict[str, Any],
        process: PhaseProcess | None = None,
    ) -> None:
        def tell(part: str, done: int, total: int) -> None:
            display.update(name if part in name else f"{name}, {part}", done, total)

        display.update(name, 0, 1)
        log = self._out / "logs" / f"{name.replace(' ', '_')}.log"
        run = run_phase if process is None else process.run
        self._seconds[name] = run(function, arguments, log=log, on_progress=tell)

    def _evaluate(self, display: ProgressDisplay, evaluator: PhaseProcess, label: str) -> None:
        # Which tasks are held out does not depend on the seed of the run.
        plan = self._config.evaluation.model_copy(update={"blanked": label == "trained"})
        folder = "policy" if label == "trained" else label
        arguments = {"policy": self._out / folder, "out": self._out / "evaluation" / label, "plan": plan}
        self._phase(display, f"evaluation of {label.replace('_', ' ')}", evaluate_policy, arguments, evaluator)

    def _train(self, display: ProgressDisplay, beside: Future[None]) -> TrainingOutcome:
        what, name = self._prepare(), self._config.algorithm
        began, log = time.monotonic(), LineReader(self._out / "training" / "trajectories.jsonl")

        def on_phase(phase: Phase) -> None:
            _raise_failure(beside)
            # The start is a part of its own: the time that is left for the steps follows from steps alone.
            phases = get_args(Phase)
            display.update(f"start of {name}", phases.index(phase), len(phases) - 1, note=phase)
            if phase == phases[-1]:
                display.update(name, 0, what.steps)

        def on_step(step: int, metrics: Mapping[str, float]) -> None:
            _raise_failure(beside)
            chains = [json.loads(line) for line in log.new_lines()]
            record = _record(step, time.monotonic() - began, metrics, chains)
            self._records.append(record)
            difference = metrics.get(DIFFERENCE, 0.0)
            if difference > DIFFERENCE_LIMIT:
                display.say(f"step {step}: rollout and trainer differ by {difference:.1e} in probability")
            note = f"reward {record.reward:.2f}, score {record.score:.0f}"
            display.update(name, step, what.steps, note=note)

        outcome = launch(what, on_step=on_step, on_phase=on_phase, on_notice=display.say)
        self._seconds["training start"] = sum(s for phase, s in outcome.phase_seconds.items() if phase != "training")
        self._seconds["training"] = outcome.phase_seconds["training"]
        return outcome

    def _prepare(self) -> Launch:
        config, out = self._config, self._out
        values = {
            "agentfly.model": out / WARM_START,
            "agentfly.out": out / "training",
            "agentfly.seed": config.seed,
            "agentfly.data.train": out / "data" / "train.parquet",
            "agentfly.data.validation": out / "data" / "validation.parquet",
            "algorithm.adv_estimator": ESTIMATORS[config.algorithm],
        }
        return prepare(QUICKSTART, [*(to_override(key, value) for key, value in values.items()), *config.overrides])

    def _require(self, outcome: TrainingOutcome) -> Path:
        if outcome.checkpoint is None:
            raise TrainingError(f"training left no checkpoint; see {outcome.log_file}")
        return outcome.checkpoint

    def _summary(self, outcome: TrainingOutcome, origin: Origin, minutes: float) -> dict[str, Any]:
        folder = self._out / "evaluation"
        passes = {
            label: {name: read_evaluation(folder / label / f"{name}.jsonl") for name in ("greedy", "sampled")}
            for label in ("warm_start", "trained")
        }
        families = self._config.evaluation.families
        gain = {
            name: {
                family: paired_difference(
                    passes["warm_start"][name], passes["trained"][name], None if family == "all" else family
                ).to_dict()
                for family in ("all", *families)
            }
            for name in ("greedy", "sampled")
        }
        blanked = read_evaluation(folder / "trained" / "blanked.jsonl")
        differences = [metrics[DIFFERENCE] for _, metrics in outcome.metrics if DIFFERENCE in metrics]
        return {
            "algorithm": self._config.algorithm,
            "seed": self._config.seed,
            "steps": outcome.steps,
            "warm_start_origin": origin,
            "minutes": round(minutes, 1),
            **{
                label: {**_headline(both["greedy"]), **{name: found.summary() for name, found in both.items()}}
                for label, both in passes.items()
            },
            "gain": gain,
            "blanked": {
                "trained": {"look": estimate(blanked.scores() >= SUCCESS).to_dict()},
                # The right colour of six, guessed; the rest of the call as good as it is.
                "chance": round(1 / 6, 3),
            },
            "rollout_actor_diff_max": max(differences, default=None),
            "seconds": {name: round(seconds, 1) for name, seconds in self._seconds.items()},
            "versions": _versions(),
        }

    def _tell(self, summary: Mapping[str, Any]) -> None:
        gain, out = summary["gain"]["greedy"]["all"], self._out
        before, after = (summary[label]["greedy"]["score"]["mean"] for label in ("warm_start", "trained"))
        self._console.print(
            f"[bold]held-out score {before:.1f} → {after:.1f}[/bold] "
            f"(gain {gain['mean']:.1f}, 95 % interval {gain['low']:.1f} to {gain['high']:.1f}) "
            f"with {summary['algorithm']} in {summary['minutes']} minutes",
            highlight=False,
        )
        for name in ("report.html", "learning_curve.png", "summary.json", "policy"):
            self._console.print(f"  {out / name}", highlight=False)


def _raise_failure(beside: Future[None]) -> None:
    """Let a failure of what runs beside the training end it, instead of being told at the end."""
    if beside.done():
        beside.result()


def _headline(greedy: Evaluation) -> dict[str, Any]:
    """Plain means; their intervals are in the summaries of the passes."""
    found = greedy.summary()
    success = {family: estimated["mean"] for family, estimated in found["success"].items()}
    return {"success": success, "score": found["score"]["mean"]}


def _record(step: int, seconds: float, metrics: Mapping[str, float], chains: Sequence[Mapping[str, Any]]) -> StepRecord:
    """A step's figures: verl's reward, and what the chains of the step say of themselves."""
    trajectories = [chain["trajectory"] for chain in chains]
    scores = [trajectory["score"] or 0.0 for trajectory in trajectories]
    calls = [sum(len(turn["tools"]) for turn in trajectory["turns"]) for trajectory in trajectories]
    count = max(1, len(scores))
    return StepRecord(
        step=step,
        seconds=seconds,
        reward=metrics.get("critic/rewards/mean", sum(t["reward"] or 0.0 for t in trajectories) / count),
        score=sum(scores) / count,
        success=sum(score >= SUCCESS for score in scores) / count,
        tool_calls=sum(calls) / count,
        extra={
            "step_seconds": metrics.get("timing_s/step", 0.0),
            "entropy": metrics.get("actor/entropy", 0.0),
            "probability_difference": metrics.get(DIFFERENCE, 0.0),
        },
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = package_version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
