"""`agentfly train`: run a recipe and show its progress, or print only its plan."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.text import Text

from agentfly.errors import ConfigError, TrainingError, printable
from agentfly.training.launch.environment import run_environment
from agentfly.training.launch.launcher import TrainingOutcome, launch
from agentfly.training.launch.log_reader import metrics_so_far, steps_so_far
from agentfly.training.launch.prepare import prepare
from agentfly.training.launch.resume import check_same_run
from agentfly.training.metrics.tool_price import tool_price
from agentfly.training.metrics.tool_stalls import stall_in_words
from agentfly.training.recipe.compose import compose, settings_of, write
from agentfly.training.recipe.plan import plan_of
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.step_parts import seconds_in_words
from agentfly.training.verl.messages import CheckResult
from agentfly.viewer.command import view_command

if TYPE_CHECKING:
    from omegaconf import DictConfig

CHECK_SECONDS = 180.0
MEASURED_STEPS = 10
# Weights since those with which a chain began, as verl counts them (trainer_base.py:_compute_metrics).
STALENESS = "training/off_policy/trajectory_staleness_worst"


def train(recipe: Path, overrides: Sequence[str], console: Console) -> TrainingOutcome:
    """Run a recipe and print a line for each step.

    Args:
        recipe: YAML file.
        overrides: in Hydra's grammar, such as `trainer.nnodes=4`.
        console: for the progress.

    Raises:
        ConfigError: the recipe or an override is wrong.
        DatasetError: the tasks cannot be read.
        TrainingError: something that the run needs is missing (one message names all of it), or the run could not
            start, stalled, or ended badly.
    """
    config = compose(recipe, overrides, sizes=False)
    _report(_check(config, settings_of(config), "ready"), console)
    # Some of the checks come a second time here: only now is the folder of the run locked.
    run = prepare(config)
    out = run.settings.out

    def show(text: str, style: str = "") -> None:
        console.print(Text(printable(text)), style=style, soft_wrap=True)

    show(f"logs: {out / 'logs'}")
    show(f"{view_command(out)} (while it runs, too)")

    def on_step(step: int, metrics: Mapping[str, float]) -> None:
        show(step_line(step, run.steps, metrics))

    def on_phase(phase: str) -> None:
        console.print(Text(printable(f"phase: {phase}")))

    outcome = launch(run, on_step=on_step, on_phase=on_phase, on_notice=partial(show, style="yellow"))
    for name, path in (
        ("metrics", outcome.metrics_file),
        ("log", outcome.log_file),
        ("checkpoint", outcome.checkpoint),
    ):
        show(f"  {name}: {path}")
    if (price := tool_price([metrics for _, metrics in metrics_so_far(outcome.metrics_file)])) is not None:
        show(price.in_words())
    show(view_command(out))
    return outcome


def dry_run(recipe: Path, overrides: Sequence[str], console: Console) -> None:
    """Compose a recipe, check it with verl's checks and ours, and print the plan; write and start nothing.

    Args:
        recipe: YAML file.
        overrides: in Hydra's grammar, such as `trainer.nnodes=4`.
        console: for the plan.

    Raises:
        ConfigError: the recipe or an override is wrong.
        TrainingError: a check failed; the message has all faults.
    """
    config = compose(recipe, overrides, sizes=False)
    settings = settings_of(config)
    for line in (*plan_of(config, settings).lines(), f"seconds     {measured_seconds(settings)}"):
        console.print(Text(printable(line)), soft_wrap=True)
    result = _check(config, settings, "check")
    for sentence in result.passed:
        console.print(Text(printable(f"checked     {sentence}")), soft_wrap=True)
    for sentence in result.cautions:
        console.print(Text(printable(f"caution     {sentence}")), style="yellow", soft_wrap=True)
    faults = [*result.faults]
    try:
        check_same_run(config, settings, settings.out / "config.yaml")
    except ConfigError as fault:
        faults.append(str(fault))
    _raise_faults(faults)


def measured_seconds(settings: TrainSettings) -> str:
    """Return the seconds of a step as the run's folder has measured them; a plan guesses at none."""
    steps = [step for step in steps_so_far(settings.metrics_log) if "timing_s/step" in step][-MEASURED_STEPS:]
    if not steps:
        return "not measured: the run has taken no step yet"
    names = {name for step in steps for name in step if name.startswith("timing_s/")}
    means = {name: sum(step.get(name, 0.0) for step in steps) / len(steps) for name in names}
    return f"{seconds_in_words(means)} (mean of the last {len(steps)} steps in {settings.metrics_log})"


def _check(config: DictConfig, settings: TrainSettings, checks: Literal["check", "ready"]) -> CheckResult:
    """Check a configuration in a child process.

    Args:
        config: of the run.
        settings: its node `agentfly`.
        checks: all checks ("check"), or the quick ones alone ("ready").
    """
    with tempfile.TemporaryDirectory(prefix="agentfly-") as folder:
        file = write(config, Path(folder) / "config.yaml")
        environment = run_environment(settings, "dry-run", Path(folder), Path(folder) / "metrics.jsonl")
        return run_checks(file, environment, checks)


def _report(ready: CheckResult, console: Console) -> None:
    """Raise `TrainingError` for the faults of the checks before a start; print their cautions."""
    _raise_faults(ready.faults)
    for sentence in ready.cautions:
        console.print(Text(printable(f"caution: {sentence}")), style="yellow", soft_wrap=True)


def _raise_faults(faults: Sequence[str]) -> None:
    """Raise `TrainingError` with all faults, one a line, unless there are none."""
    if len(faults) == 1:
        raise TrainingError(faults[0])
    if faults:
        raise TrainingError("\n- ".join((f"{len(faults)} problems:", *faults)))


def run_checks(file: Path, environment: Mapping[str, str], checks: Literal["check", "ready"]) -> CheckResult:
    """Run the checks of a configuration file in a child process.

    A child process, because verl takes its platform, and torch its GPUs, when it is imported.

    Args:
        file: the configuration.
        environment: of the child.
        checks: all checks ("check"), or the quick ones alone ("ready").

    Raises:
        TrainingError: the child took too long, or ended without an answer.
    """
    command = [sys.executable, "-m", "agentfly.training.verl.driver", checks, str(file)]
    try:
        done = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=CHECK_SECONDS, cwd=os.getcwd()
        )
    except subprocess.TimeoutExpired as fault:
        raise TrainingError(f"the checks before the start took longer than {CHECK_SECONDS:.0f} s") from fault
    result = CheckResult.from_lines(done.stdout.splitlines())
    if result is None:
        tail = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise TrainingError(f"the checks ended with exit code {done.returncode}: {tail}")
    return result


def step_line(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """Return a line about a step for the console: rewards, seconds by phase, stalls, old weights, and lost chains.

    Args:
        step: number of the step.
        steps: of the whole run.
        metrics: of the step, by name.
    """
    if "timing_s/step" not in metrics:
        values = [f"{name.removeprefix('val-core/')} {value:.3f}" for name, value in sorted(metrics.items())]
        return f"validation before step 1: {', '.join(v for v in values if 'reward' in v or 'score' in v)}"
    words = [
        f"step {step}/{steps}",
        f"reward {metrics.get('reward/mean', metrics.get('critic/rewards/mean', 0.0)):.3f}",
        f"edit {metrics.get('reward/part/edit', 0.0):.3f}",
        seconds_in_words(metrics),
        stall_in_words(metrics) or "",
    ]
    if most := metrics.get(f"{STALENESS}/max"):
        words.append(f"weights {metrics[f'{STALENESS}/mean']:.1f} behind (most {most:g})")
    prefixes = ("chains/lost/", "chains/stop/wall_clock")
    losses = [
        f"{name.rpartition('/')[2]} {value:g}" for name, value in metrics.items() if name.startswith(prefixes) and value
    ]
    if losses:
        words.append(f"lost or cut: {', '.join(losses)}")
    return "  ".join(filter(None, words))
