"""`agentfly export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def export(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run of sft, train or quickstart, or a checkpoint of verl.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
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
    Console().print(str(folder), style="bold", highlight=False, markup=False, soft_wrap=True)
