"""`agentfly doctor`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from agentfly.cli.nodes import Nodes, NodesKeyEnv

if TYPE_CHECKING:
    from agentfly.doctor import Report

_COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}


def doctor(
    model: Annotated[
        str | None, typer.Option(help="Checkpoint folder, hub name, or the endpoint's model name.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint, up to /v1.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="What the endpoint serves, if --model is no folder.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template; the checkpoint's own without it.")] = None,
    nodes: Nodes = None,
    nodes_key_env: NodesKeyEnv = None,
    max_model_len: Annotated[int | None, typer.Option(help="Context of the engine in tokens.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that runs are written to.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that models are downloaded to.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Findings as JSON.")] = False,
) -> None:
    """Tell in seconds what would go wrong later, and what to do about it. Exit code 1 if anything would."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("httpx").setLevel(logging.ERROR)
    from agentfly.doctor import CHECKS, DoctorRequest, examine

    given: dict[str, Any] = {
        "model": model,
        "checkpoint": checkpoint,
        "template": template,
        "base_url": base_url,
        "max_model_len": max_model_len,
        "out": out,
        "cache": cache,
        "nodes": tuple(node for listed in nodes or () for node in listed.split(",")),
        "nodes_key_env": nodes_key_env,
    }
    report = examine(DoctorRequest(**{name: value for name, value in given.items() if value is not None}), CHECKS)
    if json:
        typer.echo(report.to_json())
    else:
        _show(report, Console())
    raise typer.Exit(report.exit_code)


def _show(report: Report, console: Console) -> None:
    for theme, findings in report.themes():
        console.print(f"[bold]{theme}[/bold]")
        for name, finding in findings:
            if finding.level.value == "skipped" and not finding.fix:
                continue
            colour = _COLOURS[finding.level.value]
            told = f"  [{colour}]{finding.level.value:<8}[/{colour}] {name}: {escape(finding.message)}"
            console.print(told, highlight=False, soft_wrap=True)
            if finding.fix:
                console.print(f"           fix: {escape(finding.fix)}", highlight=False, soft_wrap=True)
    console.print(report.summary, highlight=False)
