"""`agentfly generate`."""

from __future__ import annotations

import typer


def generate(context: typer.Context) -> None:
    """Make an image and refine it until a judge is satisfied; prints one JSON object (--help lists the flags)."""
    # `--refs one.png two.png` takes several values, which typer's options do not: the flags are the loop's own.
    from agentfly.systems.refinement.command import main

    raise typer.Exit(main(context.args))
