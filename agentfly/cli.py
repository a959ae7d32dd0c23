"""The `agentfly` command: verbs only, each handing on to the room that does the work."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agentfly import __version__
from agentfly.errors import AgentFlyError, ConfigError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="RL training for image-editing agents that use tools."
)


class Algorithm(str, Enum):
    """Advantage estimators of the quickstart."""

    ppo = "ppo"
    grpo = "grpo"


@app.command()
def version() -> None:
    """Show the version."""
    Console().print(__version__)


@app.command()
def quickstart(
    seed: Annotated[int, typer.Option(envvar="SEED", help="Seed of data, weights and sampling.")] = 0,
    algorithm: Annotated[Algorithm, typer.Option(envvar="ALGORITHM", help="How advantages are estimated.")] = (
        Algorithm.grpo
    ),
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/quickstart"),
) -> None:
    """Warm-start a tiny policy, train it with verl on vLLM rollouts, and report what it learned. No GPU needed."""
    from agentfly.training.quickstart import QuickstartConfig, run_quickstart

    run_quickstart(QuickstartConfig(seed=seed, algorithm=algorithm.value, out=out))


@app.command()
def edit(
    picture: Annotated[str, typer.Argument(help="Path or URL of the picture.")],
    instruction: Annotated[str, typer.Argument(help="What to do, in words.")],
    model: Annotated[str, typer.Option(help="Policy folder, hub name, or the endpoint's model name.")] = (
        "runs/quickstart/policy"
    ),
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint; without it vLLM runs here.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template; the checkpoint's own without it.")] = None,
    max_turns: Annotated[int | None, typer.Option(help="Turns at most; the policy's own limit without it.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the edited picture goes: .png, .jpg or .webp.")] = (
        Path("edited.png")
    ),
    engine: Annotated[str | None, typer.Option(help="Engine behind the tools; the embedded one without it.")] = None,
    strip: Annotated[
        Path | None, typer.Option(help="Also write the steps: side by side (.png) or as an animation (.gif).")
    ] = None,
) -> None:
    """Edit a picture with an agent, showing every step."""
    if base_url is None and not Path(model).is_dir() and model.startswith("runs/"):
        raise ConfigError(
            f"there is no policy at {model}: run `make quickstart` first, name a policy with --model, or a model "
            "behind an OpenAI-compatible endpoint with --base-url URL --model NAME"
        )
    from agentfly.agents.edit import EditRequest, edit_picture

    # The console belongs to the agent's steps; what an engine says of its start is for those who ask for it.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    request = EditRequest(picture, instruction, model, base_url, template, max_turns, temperature, out, engine, strip)
    asyncio.run(edit_picture(request, Console()))


@app.command(
    "serve-images",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def serve_images(context: typer.Context) -> None:
    """Serve an image model over HTTP, OpenAI-compatible (--help lists the flags)."""
    # `--gpu-ids 0 1` takes several values, which typer's options do not: the flags are the server's own.
    from agentfly.serving.image_server.command import main as serve

    serve(context.args)


def main() -> None:
    """Entry point: our own errors end in one clear line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except AgentFlyError as fault:
        Console(stderr=True).print(f"[bold red]error:[/bold red] {fault}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
