"""`agentfly serve-images`."""

from __future__ import annotations

import typer


def serve_images(context: typer.Context) -> None:
    """Serve an image model over HTTP, OpenAI-compatible (--help lists the flags)."""
    # `--gpu-ids 0 1` takes several values, which typer's options do not: the flags are the server's own.
    from agentfly.serving.image_server.command import main as serve

    serve(context.args)
