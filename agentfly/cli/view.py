"""`agentfly view`."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from agentfly.cli.options import output_option
from agentfly.errors import ConfigError, printable
from agentfly.list_options import ANY_VALUE, ListOptionsCommand

if TYPE_CHECKING:
    from agentfly.viewer.runs.folder import RunFolder
    from agentfly.viewer.settings import ViewerSettings


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
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="Further names of this server, as for agentfly serve-images."),
    ] = None,
) -> None:
    """Show runs, finished or running, in a browser: curves, chains, images, tokens, scores."""
    from agentfly.serving.settings import ConnectionLimits
    from agentfly.viewer.command import find_runs, serve
    from agentfly.viewer.settings import ViewerSettings

    connections = ConnectionLimits(allowed_hosts=tuple(allowed_hosts or ()))
    settings = ViewerSettings(host=host, port=port, tokenizer=tokenizer, connections=connections)
    found = find_runs(runs)
    if export is not None:
        if len(found) > 1:
            raise ConfigError("--export takes one run: name one, or call it once for each")
        _export(found[0], export, settings, chains)
        return
    if chains is not None:
        raise ConfigError("--chains is about an export: add --export PATH, or leave --chains out")

    def started(address: str) -> None:
        Console().print(Text(printable(f"viewer: {address} (Ctrl-C stops it)")))
        if not no_open:
            webbrowser.open(address)

    serve(found, settings, started)


def _export(run: RunFolder, out: Path, settings: ViewerSettings, most: int | None) -> None:
    from agentfly.viewer.export.run import export_run

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bars: dict[str, TaskID] = {}

        def show(part: str, done: int, total: int) -> None:
            if part not in bars:
                bars[part] = progress.add_task(part)
            progress.update(bars[part], completed=done, total=total)

        found = export_run(run, out, settings, show, most)
    console = Console(stderr=True)
    for line in (found.content, found.left_out):
        if line:
            console.print(Text(printable(line)), soft_wrap=True)
    Console().print(Text(printable(f"{found.path} ({found.size / 1e6:.1f} MB)")), soft_wrap=True)
