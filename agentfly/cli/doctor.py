"""`agentfly doctor`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from agentfly.cli.options import AgentName, Nodes, NodesKeyEnv, Template, Tools, read_agent, read_tools
from agentfly.errors import printable, printable_json

_COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}


def doctor(
    model: Annotated[
        str | None, typer.Option(help="Checkpoint folder, hub name, or the endpoint's model name.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint, up to /v1.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint that the endpoint serves, if --model is not a folder.")
    ] = None,
    template: Template = None,
    nodes: Nodes = None,
    nodes_key_env: NodesKeyEnv = None,
    agent: AgentName = None,
    tools: Tools = None,
    max_model_len: Annotated[int | None, typer.Option(help="Context length of the engine, in tokens.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for runs.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for downloaded models.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine, a checkpoint or endpoints for problems, with fixes. Exit code 1 if there are errors."""
    given = {name: value for name, value in locals().items() if name != "json" and value is not None}
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("httpx").setLevel(logging.ERROR)
    from agentfly.doctor import CHECKS, DoctorRequest, examine

    given |= {"agent": read_agent(agent), "tools": read_tools(tools)}
    given["nodes"] = tuple(node for listed in nodes or () for node in listed.split(","))
    report = examine(DoctorRequest(**given), CHECKS)
    if json:
        typer.echo(printable_json(report.to_json()))
        raise typer.Exit(report.exit_code)
    console = Console()
    for theme, findings in report.themes():
        console.print(f"[bold]{theme}[/bold]")
        for name, finding in findings:
            if finding.level.value == "skipped" and not finding.fix:
                continue
            level = f"{finding.level.value:<8}", _COLOURS[finding.level.value]
            console.print(Text.assemble("  ", level, f" {name}: {printable(finding.message)}"), soft_wrap=True)
            if finding.fix:
                console.print(Text(f"           fix: {printable(finding.fix)}"), soft_wrap=True)
    console.print(report.summary, highlight=False)
    raise typer.Exit(report.exit_code)
