"""`agentfly edit`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agentfly.model_source import check_policy


def edit(
    picture: Annotated[str, typer.Argument(help="Path or URL of the picture.")],
    instruction: Annotated[str, typer.Argument(help="What to do, in words.")],
    model: Annotated[str, typer.Option(help="Policy folder, hub name, or the endpoint's model name.")] = (
        "runs/quickstart/policy"
    ),
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint; without it vLLM runs here.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template; the checkpoint's own without it.")] = None,
    max_turns: Annotated[int | None, typer.Option(help="Turns at most; the policy's own limit without it.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the edited picture goes: .png, .jpg or .webp.")] = (
        Path("edited.png")
    ),
    engine: Annotated[str | None, typer.Option(help="Engine behind the tools; the embedded one without it.")] = None,
    strip: Annotated[
        Path | None, typer.Option(help="Also write the steps: side by side (.png) or as an animation (.gif).")
    ] = None,
    nodes: Annotated[
        list[str] | None, typer.Option(help="Image servers for the tools, host:port.", metavar="NODE...")
    ] = None,
) -> None:
    """Edit a picture with an agent, showing every step."""
    if base_url is None:
        check_policy(model)
    from agentfly.agents.edit import EditRequest, edit_picture

    # The console belongs to the agent's steps; what an engine says of its start is for those who ask for it.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    servers = tuple(node for listed in nodes or () for node in listed.split(","))
    request = EditRequest(
        picture, instruction, model, base_url, template, max_turns, temperature, out, engine, strip, servers
    )
    asyncio.run(edit_picture(request, Console()))
