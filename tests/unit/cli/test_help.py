"""The page that the command shows when it is typed without arguments."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import typer
from typer.testing import CliRunner

from agentfly.cli import HELP, app
from agentfly.serving.deploy import app as deploy_app

ROOT = Path(__file__).resolve().parents[3]


def test_the_first_page_has_examples_that_can_be_typed_and_names_the_docs() -> None:
    shown = CliRunner().invoke(app, [], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).output
    edit, deploy = (line for line in HELP.splitlines() if line.startswith(("agentfly edit", "python -m")))
    # Each on a line of its own, to be copied.
    assert {edit, deploy} <= {line.strip() for line in shown.splitlines()}
    assert "README.md has the way from here, docs/ a page for each command." in shown
    assert (ROOT / "README.md").is_file()
    assert (ROOT / "docs").is_dir()

    verb = typer.main.get_command(app).commands["edit"]  # type: ignore[attr-defined]
    words = shlex.split(edit)[2:]
    assert verb.make_context("edit", words, parent=click.Context(verb)).params["model"] == "NAME"
    module, *flags = shlex.split(deploy)[2:]
    command = typer.main.get_command(deploy_app)
    assert command.make_context("deploy", flags).params["model"] == "FOLDER"
    assert re.fullmatch(r"agentfly\.utils\.deploy", module)
