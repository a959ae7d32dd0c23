"""`agentfly quickstart`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Algorithm(StrEnum):
    """Advantage estimators of the quickstart."""

    ppo = "ppo"
    grpo = "grpo"


def quickstart(
    seed: Annotated[int, typer.Option(envvar="SEED", help="Seed of data, weights and sampling.")] = 0,
    algorithm: Annotated[Algorithm, typer.Option(envvar="ALGORITHM", help="Advantage estimator.")] = (Algorithm.grpo),
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch",
            envvar="FROM_SCRATCH",
            help="Also train the warm start on this machine; seeds other than 0 always do.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the run; an earlier run in it is replaced.")] = Path(
        "runs/quickstart"
    ),
) -> None:
    """Train a tiny warm-started policy with verl on vLLM rollouts, and report what it learned. No GPU needed."""
    from agentfly.training.quickstart.run import QuickstartConfig, run_quickstart

    run_quickstart(QuickstartConfig(seed=seed, algorithm=algorithm.value, from_scratch=from_scratch, out=out))
