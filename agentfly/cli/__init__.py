"""The `agentfly` command: one file for one subcommand or a few, which calls the package that does the work.

A subcommand imports that package when it runs, so that `agentfly --help` stays quick.
"""

from __future__ import annotations

import logging
import sys

import typer
from rich.console import Console
from rich.markup import escape

from agentfly import __version__
from agentfly.cli.data import data
from agentfly.cli.doctor import doctor
from agentfly.cli.edit import edit
from agentfly.cli.evaluate import compare, evaluate, replay
from agentfly.cli.export import export
from agentfly.cli.generate import generate
from agentfly.cli.quickstart import quickstart
from agentfly.cli.serve import serve_images
from agentfly.cli.sft import sft
from agentfly.cli.train import train
from agentfly.errors import AgentFlyError

# For verbs whose flags belong to the room behind them.
FOREIGN_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="RL training for image-editing agents that use tools."
)


@app.command()
def version() -> None:
    """Show the version."""
    Console().print(__version__)


app.command()(quickstart)
app.command()(edit)
app.command()(train)
app.command()(sft)
app.command()(export)
app.command()(doctor)
app.add_typer(data, name="data")
app.command("eval")(evaluate)
app.command()(compare)
app.command()(replay)
app.command("serve-images", context_settings=FOREIGN_FLAGS)(serve_images)
app.command("generate", context_settings=FOREIGN_FLAGS)(generate)


def main() -> None:
    """Entry point: our own errors end in one clear line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except AgentFlyError as fault:
        Console(stderr=True).print(f"[bold red]error:[/bold red] {escape(str(fault))}", highlight=False, soft_wrap=True)
        sys.exit(1)
