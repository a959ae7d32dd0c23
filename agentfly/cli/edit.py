"""`agentfly edit`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from agentfly.cli.options import (
    AgentName,
    ApiKeyEnv,
    BaseUrl,
    Engine,
    MaxTurns,
    Model,
    Nodes,
    NodesKeyEnv,
    Temperature,
    Template,
    Tools,
    output_option,
    read_agent,
    read_node_options,
    read_tools,
)
from agentfly.errors import printable
from agentfly.redaction import public_url

UNCHANGED = 3


def edit(
    image: Annotated[str, typer.Argument(help="Path or URL of the image.")],
    instruction: Annotated[str, typer.Argument(help="What to do with the image, in words.")],
    model: Model = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = "OPENAI_API_KEY",
    template: Template = None,
    max_turns: MaxTurns = None,
    temperature: Temperature = 0.0,
    out: Annotated[Path, output_option("-o", "--out", help="File for the edited image: .png, .jpg or .webp.")] = (
        Path("edited.png")
    ),
    engine: Engine = None,
    strip: Annotated[
        Path | None, output_option(help="Also write the steps: side by side (.png) or as an animation (.gif).")
    ] = None,
    nodes: Nodes = None,
    nodes_key_env: NodesKeyEnv = None,
    agent: AgentName = None,
    tools: Tools = None,
) -> None:
    """Edit an image with an agent and show every step.

    Exit code 0: the edited image is in --out. 1: a fault, or no image. 2: invalid options. 3: the image is unchanged,
    and --out was not written.
    """
    from agentfly.agents.edit import EditRequest, UnchangedError, edit_image
    from agentfly.vision.factory import read_engines

    # The console shows the agent's steps. The engine's start-up messages are for people who ask for them.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    request = EditRequest(
        image,
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
        agent=read_agent(agent),
        tools=read_tools(tools),
    )
    try:
        asyncio.run(edit_image(request, Console()))
    except UnchangedError as fault:
        Console(stderr=True).print(Text(printable(public_url(str(fault))), "yellow"), soft_wrap=True)
        raise typer.Exit(UNCHANGED) from None
