"""`agentfly edit`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from agentfly.cli.evaluate import Engine
from agentfly.cli.nodes import Nodes, NodesKeyEnv, read_node_options
from agentfly.errors import printable

UNCHANGED = 3


def edit(
    picture: Annotated[str, typer.Argument(help="Path or URL of the picture.")],
    instruction: Annotated[str, typer.Argument(help="What to do, in words.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Policy folder, hub name, or the endpoint's model name. Without it: runs/quickstart/policy, or the "
            "endpoint's only model."
        ),
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint; without it vLLM runs here.")] = None,
    api_key_env: Annotated[str, typer.Option(help="Environment variable with the endpoint's key.")] = "OPENAI_API_KEY",
    template: Annotated[str | None, typer.Option(help="Chat template; the checkpoint's own without it.")] = None,
    max_turns: Annotated[int | None, typer.Option(help="Turns at most; the policy's own limit without it.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the edited picture goes: .png, .jpg or .webp.")] = (
        Path("edited.png")
    ),
    engine: Engine = None,
    strip: Annotated[
        Path | None, typer.Option(help="Also write the steps: side by side (.png) or as an animation (.gif).")
    ] = None,
    nodes: Nodes = None,
    nodes_key_env: NodesKeyEnv = None,
) -> None:
    """Edit a picture with an agent, showing every step.

    Exit code 0: the edited picture is in --out. 1: a fault, or no picture. 2: options that cannot be. 3: the picture is
    unchanged, and --out was not written.
    """
    from agentfly.agents.edit import EditRequest, UnchangedError, edit_picture
    from agentfly.vision.factory import read_engines

    # The console belongs to the agent's steps; what an engine says of its start is for those who ask for it.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    request = EditRequest(
        picture,
        instruction,
        out,
        model=model,
        base_url=base_url,
        api_key_env=api_key_env,
        template=template,
        max_turns=max_turns,
        temperature=temperature,
        engine=None if engine is None else read_engines(engine),
        strip=strip,
        nodes=tuple(read_node_options(nodes, nodes_key_env)),
    )
    try:
        asyncio.run(edit_picture(request, Console()))
    except UnchangedError as fault:
        Console(stderr=True).print(Text(printable(str(fault)), "yellow"), soft_wrap=True)
        raise typer.Exit(UNCHANGED) from None
