"""`agentfly quickstart`, `agentfly sft`, `agentfly export` and `agentfly train`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from agentfly.cli.options import output_option
from agentfly.errors import printable

if TYPE_CHECKING:
    from agentfly.training.supervised.state import MetricsLine


class Algorithm(StrEnum):
    """Advantage estimators of the quickstart."""

    ppo = "ppo"
    grpo = "grpo"


def quickstart(
    seed: Annotated[int, typer.Option(envvar="SEED", help="Seed of data, weights and sampling.")] = 0,
    algorithm: Annotated[Algorithm, typer.Option(envvar="ALGORITHM", help="Advantage estimator.")] = (Algorithm.grpo),
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch",
            envvar="FROM_SCRATCH",
            help="Also train the warm start on this machine; seeds other than 0 always do.",
        ),
    ] = False,
    out: Annotated[Path, output_option(help="Folder of the run; an earlier run in it is replaced.")] = Path(
        "runs/quickstart"
    ),
) -> None:
    """Train a tiny warm-started policy with verl on vLLM rollouts, and report what it learned. No GPU needed."""
    from agentfly.training.quickstart.run import QuickstartConfig, run_quickstart

    run_quickstart(QuickstartConfig(seed=seed, algorithm=algorithm.value, from_scratch=from_scratch, out=out))


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
        console.print(Text(printable(f"{name:<10} {value}")), soft_wrap=True)
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
    console.print(Text(printable(line)), soft_wrap=True)


def export(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run of sft, train or quickstart, or a checkpoint of verl.")
    ],
    out: Annotated[Path, output_option("--out", "-o", help="Folder to write.")],
    adapter: Annotated[bool, typer.Option("--adapter", help="Keep adapters separate instead of merging them.")] = False,
    card: Annotated[
        Path | None, typer.Option(help="Folder with another agentfly.json; default: the run's own.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="summary.json of an evaluation, for the README; default: the run's own.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Public name of the base model; default: as the run names it.")
    ] = None,
) -> None:
    """Export a policy to a Hugging Face folder with its agentfly.json and a README."""
    from agentfly.training.supervised.export import ExportRequest
    from agentfly.training.supervised.export import export as export_run

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    folder = export_run(ExportRequest(source, out, adapter, card, scores, base_model))
    Console().print(Text(printable(str(folder))), style="bold", soft_wrap=True)


def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file, such as recipes/qwen2_5_vl_3b_ppo.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value in Hydra's grammar: trainer.nnodes=4, device=cpu, +new.key=1.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the recipe and report what would run and its memory, without running it."
        ),
    ] = False,
) -> None:
    """Train a policy with verl. Run the same command again to resume it."""
    from agentfly.training import train as training

    run = training.dry_run if dry_run else training.train
    run(recipe, overrides or [], Console())
