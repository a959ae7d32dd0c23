"""`agentfly train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file, such as recipes/qwen2_5_vl_3b_ppo.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value in Hydra's grammar: trainer.nnodes=4, device=cpu, +new.key=1.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the recipe and report what would run and its memory, without running it."
        ),
    ] = False,
) -> None:
    """Train a policy with verl. Run the same command again to resume it."""
    from agentfly.training import train as training

    run = training.dry_run if dry_run else training.train
    run(recipe, overrides or [], Console())
