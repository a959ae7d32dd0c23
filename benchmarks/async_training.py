"""Synchronous and asynchronous training with slow tools: steps an hour, staleness, held-out score, memory.

    python benchmarks/async_training.py [--waits 0,5,20] [--modes sync,colocate_async,separate_async] [--out FOLDER]

Each run is real training by verl, on CPUs, from the warm start that comes with the repository, on the sticker world.
The runs of a table have the same tasks in the same order, the same number of steps, tasks and chains, and one update a
step. They differ in the trainer (`trainer.v1.trainer_mode`) and in the seconds that a painting call waits
(`slow_tools.py`). At the end of each run verl validates the policy, greedily, on tasks that training never shows.

`separate_async` has an accelerator more than the other two: one trains, one rolls out. On one machine all have the same
cores. The asynchronous runs correct for old weights as `recipes/async.yaml` does.

The first step does not count: it pays for what is loaded once. The interval of a step's seconds is a bootstrap over the
steps of a run, that of the score one over the held-out tasks; neither knows of other seeds. Memory is the proportional
set size of all processes of a run, every five seconds. What is done stands in `async_training.json`, and is not done
again: the benchmark can be run in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from agentfly.agents.trajectory_file import read_trajectories
from agentfly.datasets import FAMILIES, StickerWorld
from agentfly.errors import AgentFlyError, unknown_name
from agentfly.evaluators.bootstrap import Estimate, estimate
from agentfly.files import write_text
from agentfly.process_tree import ProcessFamily
from agentfly.training.launch.launcher import TrainingOutcome, launch
from agentfly.training.launch.prepare import prepare
from agentfly.training.quickstart.evaluation import EvaluationPlan
from agentfly.training.quickstart.warm_start import SHIPPED
from agentfly.training.recipe.compose import CONFIG_DIR, compose, to_override
from agentfly.training.recipe.verl_dataset import write_rows
from agentfly.training.train import STALENESS

RECIPE = CONFIG_DIR / "stickers.yaml"
HERE = Path(__file__).resolve().parent
_CORRECTED = ("algorithm.rollout_correction.rollout_is=token", "algorithm.rollout_correction.rollout_is_threshold=2.0")
MODES: Mapping[str, tuple[str, ...]] = {
    "sync": (),
    "colocate_async": _CORRECTED,
    "separate_async": (
        *_CORRECTED,
        "trainer.v1.separate_async.parameter_sync_step=1",
        "actor_rollout_ref.rollout.nnodes=1",
    ),
}
MEMORY_SECONDS = 5.0


@dataclass(frozen=True)
class Budget:
    """The budget of every run.

    Attributes:
        steps, prompts, samples: training steps, tasks of a step, chains of a task.
        test_tasks: held-out tasks, as many of each task type.
        ahead: batches that an asynchronous trainer has in work beyond the one of the step.
        at_once: painting calls at the same time; None is no limit.
        seed: of the training tasks and of the run.
    """

    steps: int = 8
    prompts: int = 4
    samples: int = 4
    test_tasks: int = 50
    ahead: int = 1
    at_once: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        mode: of the trainer.
        wait: seconds of a painting call.
        seconds: of each step.
        behind, behind_most: weights that were trained on since the oldest ones that a chain was sampled with, mean over
            the chains of each step, and the most.
        spans: numbers of weights that a chain was sampled with, mean of each step.
        scores: of the held-out tasks, 0 to 100.
        memory: bytes at the peak.
        start: seconds until training began.
    """

    mode: str
    wait: float
    seconds: Sequence[float]
    behind: Sequence[float]
    behind_most: Sequence[float]
    spans: Sequence[float]
    scores: Sequence[float]
    memory: int
    start: float

    @property
    def step(self) -> Estimate:
        """Seconds of a step; a single one counts where there are no others."""
        return estimate(self.seconds[1:] or self.seconds)

    @property
    def steps_an_hour(self) -> float:
        """Of the steps that count."""
        return 3600 / self.step.mean


class Results:
    """The runs so far, in a file.

    Args:
        file: JSON, made with the first run.
        budget: of every run in it.

    Raises:
        AgentFlyError: the file has runs of another budget.
    """

    def __init__(self, file: Path, budget: Budget) -> None:
        self._file, self._budget = file, asdict(budget)
        self.runs: dict[tuple[str, float], Run] = {}
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["budget"] != self._budget:
                raise AgentFlyError(f"{file} has runs of the budget {found['budget']}: give those options, or --out")
            for each in found["runs"]:
                self.runs[each["mode"], each["wait"]] = Run(**each)

    def add(self, run: Run) -> None:
        """Keep a run; the file is never half written."""
        self.runs[run.mode, run.wait] = run
        self._file.parent.mkdir(parents=True, exist_ok=True)
        whole = {"budget": self._budget, "runs": [asdict(each) for each in self.ordered()]}
        write_text(self._file, json.dumps(whole, indent=1) + "\n")

    def ordered(self) -> list[Run]:
        """Runs by wait and mode."""
        return sorted(self.runs.values(), key=lambda run: (run.wait, list(MODES).index(run.mode)))


def train(out: Path, budget: Budget, mode: str, wait: float, console: Console) -> Run:
    """Make a run.

    Args:
        out: folder of everything.
        budget: of the run.
        mode: of the trainer.
        wait: seconds of a painting call.
        console: gets a line a step.

    Raises:
        AgentFlyError: it failed.
    """
    folder = out / f"{mode}-{wait:g}"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped half way
    given = [to_override(key, value) for key, value in overrides(out, budget, mode, wait).items()]
    prepared = prepare(compose(RECIPE, [*given, *MODES[mode]]))

    def tell(step: int, metrics: Mapping[str, float]) -> None:
        seconds, reward = metrics.get("timing_s/step", 0.0), metrics.get("reward/mean", 0.0)
        words = f"{mode}, {wait:g} s a call: step {step} took {seconds:.1f} s, reward {reward:.2f}"
        console.print(words, markup=False, highlight=False)

    with peak_memory(folder / "logs") as peak:
        outcome = launch(prepared, on_step=tell)
    return run_of(mode, wait, outcome, held_out_scores(prepared.settings.trajectory_log, budget.steps), peak[0])


def overrides(out: Path, budget: Budget, mode: str, wait: float) -> dict[str, Any]:
    """Return the settings of a run by their keys, those of its mode apart from `MODES`; write its tasks."""
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    train_file, test_file = tasks(out / "data", budget)
    ahead = {} if mode == "sync" else {f"trainer.v1.{mode}.num_warmup_batches": budget.ahead}
    return {
        **ahead,
        "agentfly.model": SHIPPED,
        "agentfly.out": out / f"{mode}-{wait:g}",
        "agentfly.seed": budget.seed,
        "agentfly.environment": {"PYTHONPATH": paths},
        "agentfly.agent": {"agent": "slow_tools:SlowEditing", "seconds": wait, "at_once": budget.at_once},
        "agentfly.limits.wall_clock": 1800,
        "agentfly.limits.tool_timeout": 900,
        "agentfly.data.train": train_file,
        "agentfly.data.validation": test_file,
        "trainer.v1.trainer_mode": mode,
        "trainer.total_training_steps": budget.steps,
        "trainer.save_freq": -1,
        "trainer.test_freq": budget.steps,
        "data.train_batch_size": budget.prompts,
        "actor_rollout_ref.rollout.n": budget.samples,
    }


def tasks(folder: Path, budget: Budget) -> tuple[Path, Path]:
    """Return the files of the training tasks, with those that an asynchronous trainer draws ahead, and the held-out."""
    world, count = StickerWorld(), (budget.steps + budget.ahead + 1) * budget.prompts
    names = [FAMILIES[n % len(FAMILIES)] for n in range(count)]
    drawn = (world.task(3_000_000 + n, "train", name, seed=budget.seed) for n, name in enumerate(names))
    held_out = EvaluationPlan(tasks_per_family=max(1, budget.test_tasks // len(FAMILIES))).tasks()
    return write_rows(drawn, folder, "train"), write_rows(held_out, folder, "heldout")


def run_of(mode: str, wait: float, outcome: TrainingOutcome, scores: Sequence[float], memory: int) -> Run:
    """Return a run from what verl logged of its steps.

    Args:
        mode, wait, scores, memory: see `Run`.
        outcome: of the launch.
    """
    steps = [values for step, values in outcome.metrics if step > 0]

    def each(name: str) -> list[float]:
        return [values[name] for values in steps]

    start = sum(seconds for phase, seconds in outcome.phase_seconds.items() if phase != "training")
    return Run(
        mode,
        wait,
        each("timing_s/step"),
        each(f"{STALENESS}/mean"),
        each(f"{STALENESS}/max"),
        each("training/off_policy/trajectory_spans/mean"),
        list(scores),
        memory,
        start,
    )


def held_out_scores(trajectories: Path, step: int) -> list[float]:
    """Return the scores of the chains of the validation after a step."""
    lines = (line for _, line in read_trajectories(trajectories) if line.validate and line.step == step)
    return [score for line in lines if (score := line.trajectory.score) is not None]


@contextmanager
def peak_memory(logs: Path) -> Iterator[list[int]]:
    """Yield a list with the most bytes that all processes of a run had so far, by their proportional set size.

    Args:
        logs: folder of the run's logs; its newest log has the name of the launch.
    """
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(MEMORY_SECONDS):
            if found := sorted(logs.glob("*.log"), key=lambda path: path.stat().st_mtime):
                peak[0] = max(peak[0], sum(map(_memory, ProcessFamily(found[-1].stem).members())))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _memory(process: int) -> int:
    try:
        return int(psutil.Process(process).memory_full_info().pss)
    except psutil.Error:  # it has ended
        return 0


def table(results: Results) -> str:
    """Return the runs as a table in Markdown."""
    lines = [
        "| s a call | trainer | s a step | steps an hour | to sync | weights behind, mean (most) | weights a chain "
        "| held-out score | peak GiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in results.ordered():
        base, step, score = results.runs.get(("sync", run.wait)), run.step, estimate(run.scores)
        ratio = "" if base is None else f"{100 * (step.mean / base.step.mean - 1):+.0f} %"
        lines.append(
            f"| {run.wait:g} | `{run.mode}` | {step.mean:.1f} ({step.low:.1f} to {step.high:.1f}) "
            f"| {run.steps_an_hour:.0f} | {ratio if run.mode != 'sync' else ''} "
            f"| {statistics.fmean(run.behind[1:] or run.behind):.1f} ({max(run.behind_most):.0f}) "
            f"| {statistics.fmean(run.spans[1:] or run.spans):.2f} "
            f"| {score.mean:.0f} ({score.low:.0f} to {score.high:.0f}) | {run.memory / 2**30:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _modes(text: str) -> list[str]:
    for name in text.split(","):
        if name not in MODES:
            raise argparse.ArgumentTypeError(unknown_name("mode", name, MODES))
    return text.split(",")


def main() -> None:
    """Make the runs that are missing, and show all that there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default, console = Budget(), Console()
    parser.add_argument("--waits", type=lambda text: [float(n) for n in text.split(",")], default=[0.0, 5.0, 20.0])
    parser.add_argument("--modes", type=_modes, default=list(MODES), help=", ".join(MODES))
    parser.add_argument("--out", type=Path, default=Path("runs/async_training"), help="folder of everything")
    for name, words in (
        ("steps", "training steps"),
        ("prompts", "tasks of a step"),
        ("samples", "chains of a task"),
        ("test-tasks", f"held-out tasks, a multiple of {len(FAMILIES)}"),
        ("ahead", "batches that an asynchronous trainer has in work beyond the one of the step"),
        ("at-once", "painting calls at the same time (default: any number)"),
        ("seed", "of tasks and runs"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name.replace("-", "_")), help=words)
    given = parser.parse_args()
    budget = Budget(**{name: getattr(given, name) for name in asdict(default)})
    out, failed = given.out.absolute(), list[str]()
    try:
        results = Results(out / "async_training.json", budget)
    except AgentFlyError as fault:
        parser.error(str(fault))
    for wait, mode in ((wait, mode) for wait in given.waits for mode in given.modes):
        if (mode, wait) in results.runs:
            continue
        try:
            results.add(train(out, budget, mode, wait, console))
        except AgentFlyError as fault:
            failed.append(f"{mode}, {wait:g} s a call: {fault}")
            console.print(failed[-1], markup=False, highlight=False)
    (out / "async_training.md").write_text(table(results), encoding="utf-8")
    console.print(table(results), markup=False, highlight=False, soft_wrap=True)
    if failed:
        sys.exit("\n".join(["not done:", *failed]))


if __name__ == "__main__":
    main()
