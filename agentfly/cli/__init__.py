"""The `agentfly` command: one file for each subcommand, or for a few that belong together.

A subcommand imports the package behind it when it runs, so that `agentfly --help` stays quick.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.text import Text

from agentfly import __version__
from agentfly.cli.calibrate import calibrate
from agentfly.cli.data import data
from agentfly.cli.doctor import doctor
from agentfly.cli.edit import edit
from agentfly.cli.environment import ServeOpenEnvCommand, serve_openenv
from agentfly.cli.evaluate import compare, evaluate, replay
from agentfly.cli.generate import GenerateCommand, generate
from agentfly.cli.mcp import McpCommand, mcp
from agentfly.cli.new import new
from agentfly.cli.options import NodesCommand
from agentfly.cli.serve import ServeEvaluatorCommand, ServeImagesCommand, serve_evaluator, serve_images
from agentfly.cli.train import export, quickstart, sft, train
from agentfly.cli.try_ import try_recipe
from agentfly.cli.view import ViewCommand, view
from agentfly.errors import one_line, printable
from agentfly.redaction import log_to_stderr, public_url

# The option of each verb that names where it writes.
FOLDER_OPTIONS = {
    "quickstart": "--out FOLDER",
    "new": "FOLDER",
    "edit": "--out FILE",
    "train": "agentfly.out=FOLDER",
    "try": "--save FOLDER",
    "sft": "out=FOLDER",
    "export": "--out FOLDER",
    "data": "--out FOLDER",
    "eval": "--out FOLDER",
    "compare": "--out FOLDER",
    "replay": "--out FOLDER",
    "calibrate": "--out FOLDER",
    "serve-evaluator": "--venv FOLDER",
    "serve-openenv": "--log-dir FOLDER",
    "generate": "--output-dir FOLDER",
    "mcp": "--out FOLDER",
    "view": "--export PATH",
}

HELP = """RL training for image-editing agents that use tools.

A first edit, by any model behind an OpenAI-compatible endpoint:

agentfly edit cat.jpg "Make it brighter" --base-url URL --model NAME

A policy served by vLLM, with tool calls:

python -m agentfly.utils.deploy --model_name_or_path FOLDER

README.md has the way from here, docs/ a page for each command."""

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help=HELP, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command()
def version() -> None:
    """Show the version."""
    Console().print(__version__)


app.command()(quickstart)
app.command()(new)
app.command(cls=NodesCommand)(edit)
app.command("try")(try_recipe)
app.command()(train)
app.command()(sft)
app.command()(export)
app.command(cls=NodesCommand)(doctor)
app.add_typer(data, name="data")
app.command("eval", cls=NodesCommand)(evaluate)
app.command()(compare)
app.command()(calibrate)
app.command(cls=NodesCommand)(replay)
app.command(cls=ViewCommand)(view)
app.command("serve-images", cls=ServeImagesCommand)(serve_images)
app.command("serve-evaluator", cls=ServeEvaluatorCommand)(serve_evaluator)
app.command(cls=McpCommand)(mcp)
app.command("serve-openenv", cls=ServeOpenEnvCommand)(serve_openenv)
app.command(cls=GenerateCommand)(generate)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb. An error of ours, of the disk or of a path ends in one line and exit code 1.

    Args:
        arguments: the verb and its arguments; None for those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    log_to_stderr(logging.WARNING, "%(levelname)s %(name)s: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name of a file, or a text of a model, can hold what UTF-8 cannot carry.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Find "module:name" in the working folder too, after all that is installed.
    sys.path.append(os.getcwd())
    try:
        app(given, prog_name="agentfly")
    except Exception as fault:
        line = one_line(fault, FOLDER_OPTIONS.get(given[0], "") if given else "")
        if line is None:
            raise
        text = printable(public_url(line))
        Console(stderr=True).print(Text.assemble(("error:", "bold red"), f" {text}"), soft_wrap=True)
        sys.exit(1)
