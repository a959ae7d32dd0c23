"""`agentfly new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from agentfly.errors import printable
from agentfly.files import check_named


def _read(given: str | Path) -> Path:
    try:
        check_named(given)
    except ValueError as fault:
        raise typer.BadParameter(str(fault)) from None
    return Path(given)


def new(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=_read, metavar="FOLDER", help="Folder to write; its name is that of the package, such as my_project."
        ),
    ],
) -> None:
    """Write a small project: an agent, a tool, a reward, sample tasks, recipes and tests, ready to be trained."""
    from agentfly.project import POLICY_MISSING, create_project

    project = create_project(folder)
    console = Console()
    console.print(Text(printable(str(project.folder))), style="bold", soft_wrap=True)
    if not project.has_policy:
        console.print(Text(printable(POLICY_MISSING)), style="yellow", soft_wrap=True)
    for line in (f"cd {folder}", "pytest", "agentfly try recipe.yaml", "agentfly train recipe.yaml"):
        console.print(Text(printable(f"  {line}")), soft_wrap=True)
    console.print(Text("README.md there has the way on."), soft_wrap=True)
