"""`agentfly sft`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from agentfly.training.supervised.state import MetricsLine


def sft(
    words: Annotated[
        list[str], typer.Argument(help="YAML files and key=value pairs, such as model=FOLDER out=FOLDER lora.rank=16.")
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in out=, if there is one.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check settings and data, and report what would run.")
    ] = False,
) -> None:
    """Train a policy on demonstrations, good trajectories or OpenAI-style conversations."""
    from agentfly.training.supervised.config import read_config
    from agentfly.training.supervised.trainer import plan_run, run_supervised

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    console = Console()
    plan = plan_run(read_config(words), resume=resume or dry_run)
    for name, value in plan.data.summary().items():
        console.print(f"{name:<10} {value}", highlight=False, markup=False, soft_wrap=True)
    if dry_run:
        console.print(f"would take {plan.loop.steps} steps of {plan.loop.batch_size} samples", highlight=False)
        return
    note = TextColumn("{task.fields[note]}")
    with Progress(
        TextColumn("sft"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note, console=console
    ) as progress:
        bar = progress.add_task("sft", total=plan.loop.steps, note="")

        def report(line: MetricsLine) -> None:
            progress.update(bar, completed=line["step"], note=f"loss {line['loss']:.3f}")
            if "held_out_loss" in line:
                held_out = f"step {line['step']}: held-out loss {line['held_out_loss']:.4f}"
                progress.console.print(held_out, highlight=False)

        folder = run_supervised(plan, resume=resume, on_metrics=report)
    line = f"{folder}; make a folder for others with `agentfly export {plan.config.out} --out …`"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
