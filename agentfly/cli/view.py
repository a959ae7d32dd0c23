"""`agentfly view`."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from agentfly.cli.options import AgentName, Tools, read_agent, read_tools
from agentfly.errors import printable
from agentfly.list_options import ANY_VALUE, ListOptionsCommand


class ViewCommand(ListOptionsCommand):
    """A command whose `--allowed-hosts` takes several names."""

    list_options = MappingProxyType({"--allowed-hosts": ANY_VALUE})


def view(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, or files of trajectories."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8700,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="PATH", help="Tokenizer for the text of tokens; default: the run's policy.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Engine for calls that are run again, as for agentfly replay; default: the embedded one."),
    ] = None,
    agent: AgentName = None,
    tools: Tools = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="Further names of this server, as for agentfly serve-images."),
    ] = None,
) -> None:
    """Show runs, finished or running, in a browser: curves, chains, images, tokens, scores."""
    from agentfly.serving.settings import ConnectionLimits
    from agentfly.viewer.command import find_runs, serve
    from agentfly.viewer.settings import ViewerSettings
    from agentfly.vision.factory import read_engines

    connections = ConnectionLimits(allowed_hosts=tuple(allowed_hosts or ()))
    settings = ViewerSettings(
        host=host,
        port=port,
        tokenizer=tokenizer,
        engine=None if engine is None else read_engines(engine),
        agent=read_agent(agent),
        tools=read_tools(tools),
        connections=connections,
    )

    def started(address: str) -> None:
        Console().print(Text(printable(f"viewer: {address} (Ctrl-C stops it)")))
        if not no_open:
            webbrowser.open(address)

    serve(find_runs(runs), settings, started)
