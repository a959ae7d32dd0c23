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
from agentfly.errors import ConfigError, printable

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
    view: Annotated[
        bool, typer.Option("--view", envvar="VIEW", help="Serve the pages of agentfly view while it runs.")
    ] = False,
) -> None:
    """Train a tiny warm-started policy with verl on vLLM rollouts, and report what it learned. No GPU needed."""
    from agentfly.training.quickstart.run import QuickstartConfig, run_quickstart
    from agentfly.viewer.beside import ViewerBeside
    from agentfly.viewer.command import view_command

    console, config = (
        Console(),
        QuickstartConfig(seed=seed, algorithm=algorithm.value, from_scratch=from_scratch, out=out),
    )

    def say(text: str) -> None:
        console.print(Text(printable(text)), soft_wrap=True)

    with ViewerBeside(out, log=out / "logs" / "viewer.log") as viewer:

        def begin() -> None:
            """Tell how to look on."""
            address = viewer.start() if view else None
            say(f"viewer: {address}" if address else f"{view_command(out)} (while it runs, too)")

        run_quickstart(config, console, begin)
        if viewer.address and console.is_terminal:
            say(f"the viewer goes on at {viewer.address} (Ctrl-C stops it)")
            viewer.wait()


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
        Path, typer.Argument(help="Folder of a run of sft, train or quickstart; also of eval with --to-hub.")
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
    to_hub: Annotated[
        bool, typer.Option("--to-hub", help="Export the run's trajectories as a data set, not its policy.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="With --to-hub: most chains.")] = None,
    min_score: Annotated[float | None, typer.Option(help="With --to-hub: least score of a chain, 0 to 100.")] = None,
    tokens: Annotated[
        bool | None,
        typer.Option(
            "--tokens/--no-tokens", help="With --to-hub: keep token ids and log-probs.", show_default="tokens"
        ),
    ] = None,
) -> None:
    """Export a policy as a Hugging Face folder, or trajectories as a data set (--to-hub), each with its card."""
    policy = {"--adapter": adapter or None, "--card": card, "--scores": scores, "--base-model": base_model}
    data = {"--limit": limit, "--min-score": min_score, "--tokens": tokens}
    for option, value in (policy if to_hub else data).items():
        if value is not None:
            other = "exports a policy: leave --to-hub out" if to_hub else "is about trajectories: add --to-hub"
            raise ConfigError(f"{option} {other}, or leave {option} out")
    if to_hub:
        _export_trajectories(source, out, limit, min_score, tokens=tokens is not False)
        return
    from agentfly.training.supervised.export import ExportRequest
    from agentfly.training.supervised.export import export as export_run

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    folder = export_run(ExportRequest(source, out, adapter, card, scores, base_model))
    Console().print(Text(printable(str(folder))), style="bold", soft_wrap=True)


def _export_trajectories(source: Path, out: Path, limit: int | None, min_score: float | None, *, tokens: bool) -> None:
    from agentfly.evaluation.hub import HubExport, export_trajectories

    console = Console()
    found = export_trajectories(HubExport(source, out, limit, min_score, tokens))
    counts = [f"{rows} chains in {split}" for split, rows in found.rows.items()]
    counts += [f"left out: {count}, {reason}" for reason, count in found.left_out.items()]
    if found.without_tokens:
        counts.append(f"{found.without_tokens} without tokens, for a key was taken out of their texts")
    for line in counts:
        console.print(Text(printable(line)), soft_wrap=True)
    console.print(Text(printable(str(found.folder))), style="bold", soft_wrap=True)
    push = (
        f"choose a license in README.md there, then: hf upload YOUR_NAME/DATASET {found.folder} . --repo-type dataset"
    )
    console.print(Text(printable(push)), soft_wrap=True)


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
