"""`agentfly train`: run a recipe and show its progress, or print only its plan."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape

from agentfly.errors import ConfigError, TrainingError
from agentfly.training.launch.environment import run_environment
from agentfly.training.launch.launcher import TrainingOutcome, launch
from agentfly.training.launch.prepare import prepare_run
from agentfly.training.launch.resume import check_same_run
from agentfly.training.metrics.tool_stalls import stall_in_words
from agentfly.training.recipe.compose import read_recipe, settings_of, write
from agentfly.training.recipe.plan import plan_of
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.verl.messages import CheckResult

CHECK_SECONDS = 180.0
# Phases of a step as verl names them, and as people read them.
PHASES = {
    "gen": "rollout",
    "old_log_prob": "log-probs",
    "ref": "reference",
    "values": "values",
    "update_critic": "critic",
    "update_actor": "update",
    "update_weights": "sync",
    "save_checkpoint": "checkpoint",
    "testing": "validation",
}


def train(recipe: Path, overrides: Sequence[str], console: Console) -> TrainingOutcome:
    """Run a recipe and tell of each step.

    Raises:
        ConfigError: the recipe or an override is wrong.
        DatasetError: the tasks cannot be read.
        TrainingError: something that the run needs is not there (all of it is told together), or the run could not
            start, stalled, or ended badly.
    """
    config = read_recipe(recipe, overrides)
    faults, _ = _checked(config, settings_of(config), "ready")
    _refuse(faults)
    what = prepare_run(config)
    out = what.settings.out
    console.print(f"logs: {out / 'logs'}", highlight=False, markup=False, soft_wrap=True)

    def on_step(step: int, metrics: Mapping[str, float]) -> None:
        console.print(escape(step_line(step, what.steps, metrics)), highlight=False, soft_wrap=True)

    def on_phase(phase: str) -> None:
        console.print(f"phase: {phase}", highlight=False)

    def on_notice(text: str) -> None:
        console.print(escape(text), style="yellow", highlight=False, soft_wrap=True)

    outcome = launch(what, on_step=on_step, on_phase=on_phase, on_notice=on_notice)
    for name, path in (
        ("metrics", outcome.metrics_file),
        ("log", outcome.log_file),
        ("checkpoint", outcome.checkpoint),
    ):
        console.print(f"  {name}: {path}", highlight=False, markup=False, soft_wrap=True)
    return outcome


def dry_run(recipe: Path, overrides: Sequence[str], console: Console) -> None:
    """Compose a recipe, let verl and ourselves check it, and tell what would run; nothing is written or started.

    Raises:
        ConfigError: the recipe or an override is wrong.
        TrainingError: with all that would go wrong.
    """
    config = read_recipe(recipe, overrides)
    settings = settings_of(config)
    for line in plan_of(config, settings).lines():
        console.print(escape(line), highlight=False, soft_wrap=True)
    faults, told = _checked(config, settings, "check")
    for sentence in told:
        console.print(escape(f"checked     {sentence}"), highlight=False, soft_wrap=True)
    try:
        check_same_run(config, settings, settings.out / "config.yaml")
    except ConfigError as fault:
        faults.append(str(fault))
    _refuse(faults)


def _checked(config: Any, settings: TrainSettings, how: Literal["check", "ready"]) -> tuple[list[str], list[str]]:
    """Return what is wrong with a configuration, and what was looked at, by all checks or by the quick ones alone."""
    with tempfile.TemporaryDirectory(prefix="agentfly-") as folder:
        file = write(config, Path(folder) / "config.yaml")
        environment = run_environment(settings, "dry-run", Path(folder), Path(folder) / "metrics.jsonl")
        return _checked_apart(file, environment, how)


def _refuse(faults: Sequence[str]) -> None:
    """Raise `TrainingError` with all faults, one a line, unless there are none."""
    if len(faults) == 1:
        raise TrainingError(faults[0])
    if faults:
        raise TrainingError("\n- ".join((f"{len(faults)} problems:", *faults)))


def _checked_apart(
    file: Path, environment: Mapping[str, str], how: Literal["check", "ready"]
) -> tuple[list[str], list[str]]:
    """Ask `driver check`, a process of its own: verl takes its platform, and torch its GPUs, when it is imported."""
    command = [sys.executable, "-m", "agentfly.training.verl.driver", how, str(file)]
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
    return [*result.faults], [*result.passed]


def step_line(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """One step for a console: what was earned, where the time went, and who was waited for."""
    if "timing_s/step" not in metrics:
        values = [f"{name.removeprefix('val-core/')} {value:.3f}" for name, value in sorted(metrics.items())]
        return f"validation before step 1: {', '.join(v for v in values if 'reward' in v or 'score' in v)}"
    parts = [
        f"{label} {metrics[f'timing_s/{name}']:.1f}" for name, label in PHASES.items() if f"timing_s/{name}" in metrics
    ]
    words = [
        f"step {step}/{steps}",
        f"reward {metrics.get('reward/mean', metrics.get('critic/rewards/mean', 0.0)):.3f}",
        f"edit {metrics.get('reward/part/edit', 0.0):.3f}",
        f"{metrics['timing_s/step']:.1f} s = {' + '.join(parts)}",
        stall_in_words(metrics) or "",
        _losses(metrics),
    ]
    return "  ".join(filter(None, words))


def _losses(metrics: Mapping[str, float]) -> str:
    """Chains that were lost to faults or cut by the clock, by reason; empty when there were none."""
    prefixes = ("chains/lost/", "chains/stop/wall_clock")
    found = [
        f"{name.rpartition('/')[2]} {value:g}" for name, value in metrics.items() if name.startswith(prefixes) and value
    ]
    return f"lost or cut: {', '.join(found)}" if found else ""
