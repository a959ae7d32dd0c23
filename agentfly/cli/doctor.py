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
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint that the endpoint serves, if --model is not a folder.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Chat template; default: the checkpoint's own.")] = None,
    nodes: Nodes = None,
    nodes_key_env: NodesKeyEnv = None,
    max_model_len: Annotated[int | None, typer.Option(help="Context length of the engine, in tokens.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for runs.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for downloaded models.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine, a checkpoint or endpoints for problems, with fixes. Exit code 1 if there are errors."""
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
            line = f"  [{colour}]{finding.level.value:<8}[/{colour}] {name}: {escape(finding.message)}"
            console.print(line, highlight=False, soft_wrap=True)
            if finding.fix:
                console.print(f"           fix: {escape(finding.fix)}", highlight=False, soft_wrap=True)
    console.print(report.summary, highlight=False)
