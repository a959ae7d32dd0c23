"""`agentfly view`."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from agentfly.cli.options import (
    AgentName,
    ApiKeyEnv,
    BaseUrl,
    MaxTurns,
    Model,
    Nodes,
    NodesCommand,
    NodesKeyEnv,
    Temperature,
    Template,
    Tools,
    output_option,
    read_agent,
    read_node_options,
    read_tools,
)
from agentfly.errors import ConfigError, printable
from agentfly.list_options import ANY_VALUE

if TYPE_CHECKING:
    from agentfly.viewer.runs.folder import RunFolder
    from agentfly.viewer.settings import ViewerSettings


class ViewCommand(NodesCommand):
    """A command whose `--nodes`, `--tools` and `--allowed-hosts` take several values."""

    list_options = MappingProxyType({**NodesCommand.list_options, "--allowed-hosts": ANY_VALUE})


def view(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Folders of runs, or files of trajectories."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8700,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    export: Annotated[
        Path | None,
        output_option(help="Write the pages of one run there instead: one FILE.html, or a folder with full images."),
    ] = None,
    chains: Annotated[
        int | None,
        typer.Option(min=1, help="With --export: most chains; default: 100 in a file, 1000 in a folder."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="PATH", help="Tokenizer for the text of tokens; default: the run's policy.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Engine of the tools, for calls that are run again and for --try; default: the embedded one."
        ),
    ] = None,
    agent: AgentName = None,
    tools: Tools = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="Further names of this server, as for agentfly serve-images."),
    ] = None,
    ratings: Annotated[
        Path | None,
        output_option(help="Write the ratings of people, with the evaluators' scores, to FILE.jsonl or .csv, and end."),
    ] = None,
    try_: Annotated[
        bool, typer.Option("--try", help="Also serve a page on which an agent edits images; the rest is about it.")
    ] = False,
    save: Annotated[
        Path | None, output_option(help="With --try: folder that keeps what was tried; else it goes when this ends.")
    ] = None,
    model: Model = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = "OPENAI_API_KEY",
    template: Template = None,
    max_turns: MaxTurns = None,
    temperature: Temperature = 0.0,
    nodes: Nodes = None,
    nodes_key_env: NodesKeyEnv = None,
) -> None:
    """Show runs, finished or running, in a browser: curves, chains, images, tokens, scores."""
    from agentfly.agents.edit import PolicyOptions
    from agentfly.serving.settings import ConnectionLimits
    from agentfly.viewer.command import find_runs, serve
    from agentfly.viewer.settings import ViewerSettings
    from agentfly.vision.factory import read_engines

    found = find_runs(runs or ())
    if ratings is not None:
        _write_ratings(found, ratings)
        return
    chosen_engine, chosen_agent, chosen_tools = engine and read_engines(engine), read_agent(agent), read_tools(tools)
    policy = PolicyOptions(
        model=model,
        base_url=base_url,
        api_key_env=api_key_env,
        template=template,
        max_turns=max_turns,
        temperature=temperature,
        nodes=tuple(read_node_options(nodes, nodes_key_env)),
    )
    if not try_ and (save is not None or policy != PolicyOptions(api_key_env=api_key_env)):
        raise typer.BadParameter("the options of the policy, and --save, are for --try: add it, or leave them out")
    if not try_ and not found:
        raise typer.BadParameter("name the folder of a run, or give --try with --model or --base-url")
    settings = ViewerSettings(
        host=host,
        port=port,
        tokenizer=tokenizer,
        engine=chosen_engine,
        agent=chosen_agent,
        tools=chosen_tools,
        connections=ConnectionLimits(allowed_hosts=tuple(allowed_hosts or ())),
    )
    policy = replace(policy, engine=chosen_engine, agent=chosen_agent, tools=chosen_tools)
    if export is not None or chains is not None:
        _export(found, export, settings, chains)
        return
    started = partial(_announce, page=None if no_open else "try" if try_ else "")
    serve(found, settings, started, policy=policy if try_ else None, save=save)


def _announce(address: str, page: str | None) -> None:
    """Print the address of the viewer, and open one of its pages unless that is None."""
    Console().print(Text(printable(f"viewer: {address} (Ctrl-C stops it)")))
    if page is not None:
        # A browser of the terminal keeps its caller until it ends: the server must answer meanwhile.
        threading.Thread(target=webbrowser.open, args=(address + page,), name="browser", daemon=True).start()


def _export(runs: Sequence[RunFolder], out: Path | None, settings: ViewerSettings, most: int | None) -> None:
    from agentfly.viewer.export.run import export_run

    if out is None:
        raise ConfigError("--chains is about an export: add --export PATH, or leave --chains out")
    if len(runs) != 1:
        raise ConfigError("--export takes one run: name one, or call it once for each")

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bars: dict[str, TaskID] = {}

        def show(part: str, done: int, total: int) -> None:
            if part not in bars:
                bars[part] = progress.add_task(part)
            progress.update(bars[part], completed=done, total=total)

        found = export_run(runs[0], out, settings, show, most)
    console = Console(stderr=True)
    for line in (found.content, found.left_out):
        if line:
            console.print(Text(printable(line)), soft_wrap=True)
    Console().print(Text(printable(f"{found.path} ({found.size / 1e6:.1f} MB)")), soft_wrap=True)


def _write_ratings(runs: Sequence[RunFolder], file: Path) -> None:
    from agentfly.viewer.agreement import agreements, export_ratings
    from agentfly.viewer.opened import Viewer

    rows = export_ratings(Viewer(runs), file)
    console = Console()
    console.print(Text(printable(f"{file}: {len(rows)} ratings")), soft_wrap=True)
    for row in agreements(rows):
        console.print(Text(printable(f"  {row.in_words()}")), soft_wrap=True)
