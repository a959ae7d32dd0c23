"""`agentfly export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def export(
    source: Annotated[Path, typer.Argument(help="Run of sft, train or quickstart, or a checkpoint of verl.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder.")],
    adapter: Annotated[bool, typer.Option("--adapter", help="Keep adapters apart instead of merging them.")] = False,
    card: Annotated[
        Path | None, typer.Option(help="Folder with the agentfly.json to take; the run's own without it.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="summary.json of an evaluation, for the README; the run's own without it.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Name of the model that was trained; the run's own without it.")
    ] = None,
) -> None:
    """Export a policy to a Hugging Face folder with its agent card and a README."""
    from agentfly.training.supervised.export import ExportRequest
    from agentfly.training.supervised.export import export as export_run

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    folder = export_run(ExportRequest(source, out, adapter, card, scores, base_model))
    Console().print(str(folder), style="bold", highlight=False, markup=False, soft_wrap=True)
