"""`agentfly edit`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agentfly.errors import ConfigError


def edit(
    image: Annotated[str, typer.Argument(help="Path or URL of the image.")],
    instruction: Annotated[str, typer.Argument(help="What to do with the image, in words.")],
    model: Annotated[str, typer.Option(help="Policy folder, hub name, or the endpoint's model name.")] = (
        "runs/quickstart/policy"
    ),
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint, up to /v1; without it vLLM runs in this process.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Chat template; default: the checkpoint's own.")] = None,
    max_turns: Annotated[int | None, typer.Option(help="Most turns; default: the policy's own limit.")] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 always takes the likeliest token.")] = 0.0,
    out: Annotated[Path, typer.Option("-o", "--out", help="File for the edited image: .png, .jpg or .webp.")] = (
        Path("edited.png")
    ),
    engine: Annotated[
        str | None, typer.Option(help="Engine behind the tools, such as models; default: classical.")
    ] = None,
    strip: Annotated[
        Path | None, typer.Option(help="Also write the steps: side by side (.png) or as an animation (.gif).")
    ] = None,
    nodes: Annotated[
        list[str] | None, typer.Option(help="Image servers for the tools, host:port.", metavar="NODE...")
    ] = None,
) -> None:
    """Edit an image with an agent and show every step."""
    if base_url is None and not Path(model).is_dir() and model.startswith("runs/"):
        raise ConfigError(
            f"there is no policy at {model}: run `make quickstart` first, name a policy with --model, or a model "
            "behind an OpenAI-compatible endpoint with --base-url URL --model NAME"
        )
    from agentfly.agents.edit import EditRequest, edit_picture

    # The console belongs to the agent's steps; what an engine says of its start is for those who ask for it.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    servers = tuple(node for listed in nodes or () for node in listed.split(","))
    request = EditRequest(
        image, instruction, model, base_url, template, max_turns, temperature, out, engine, strip, servers
    )
    asyncio.run(edit_picture(request, Console()))
