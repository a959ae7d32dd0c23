"""`agentfly try`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from agentfly.cli.options import BaseUrl, output_option
from agentfly.errors import TrainingError, printable


def try_recipe(
    recipe: Annotated[Path, typer.Argument(help="YAML file, as for agentfly train.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as for agentfly train.")] = None,
    tasks: Annotated[int, typer.Option(min=1, help="First tasks of the training data.")] = 4,
    samples: Annotated[int, typer.Option(min=1, help="Chains of each task.")] = 1,
    model: Annotated[str | None, typer.Option(help="Policy in place of the recipe's, on vLLM.")] = None,
    base_url: BaseUrl = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with the endpoint's key.")] = None,
    scripted: Annotated[Path | None, typer.Option(help="YAML or JSONL file of turns, in place of a policy.")] = None,
    save: Annotated[
        Path | None, output_option("--save", help="Folder for the chains; an earlier trial there is replaced.")
    ] = None,
) -> None:
    """Run a few tasks of a recipe as training would: each turn, reward and metric, without verl and its updates."""
    from agentfly.training.trial.request import TrialRequest
    from agentfly.training.trial.run import Trial
    from agentfly.training.trial.show import TrialConsole
    from agentfly.viewer.command import view_command

    # The engine's start-up messages are for people who ask for them.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    console = Console(highlight=False)
    request = TrialRequest(recipe, overrides or (), tasks, samples, model, base_url, api_key_env, scripted, save)
    trial = Trial(request)
    shown = TrialConsole(console, trial)
    try:
        result = asyncio.run(trial.run(shown.head, shown.chain))
    except KeyboardInterrupt:
        kept = "" if save is None else f"; what was finished is in {save}"
        console.print(Text(printable(f"stopped{kept}")), style="yellow", soft_wrap=True)
        raise typer.Exit(130) from None
    shown.result(result)
    if save is not None:
        files = ", ".join(
            str(save / name) for name in ("trial.json", "summary.md", "gallery.html", "trajectories.jsonl")
        )
        console.print(Text(printable(files)), soft_wrap=True)
        console.print(Text(printable(view_command(save))), soft_wrap=True)
    if len(result.lost) == len(result.chains):
        raise TrainingError("no chain could be trained on; the lines above say why of each")
