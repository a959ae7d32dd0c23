"""Training runs of a few short chains, with scores as a test wants them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory import StopReason, ToolRecord, Trajectory, Turn
from agentfly.agents.trajectory_file import FILE_NAME, TrajectoryLine, append_line
from agentfly.images import ImageStore
from agentfly.viewer.opened import OpenRun
from agentfly.viewer.runs import find_run


def add_chains(
    file: Path,
    scores: Mapping[str, Sequence[Sequence[float | None]]],
    step: int | None = None,
    *,
    validate: bool | None = False,
    stop: StopReason = StopReason.ANSWERED,
    images: bool = False,
) -> None:
    """Append chains to a file of trajectories.

    Args:
        file: made where it is missing.
        scores: by task type: of each prompt, those of its chains.
        step: of training.
        validate: of training.
        stop: of all chains.
        images: keep a source and a result in `images/`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    store = ImageStore(file.parent / "images") if images else None
    handle = None if store is None else store.put(Image.new("RGB", (32, 32), "red"))
    for kind, prompts in scores.items():
        for place, chains in enumerate(prompts):
            group = f"{kind}-{place}-at-{step}-{validate}"
            for number, score in enumerate(chains):
                chain = Trajectory(
                    f"{group}-{number}-{file.stem}",
                    group,
                    [],
                    turns=[Turn("text", "stop", 0.5, (ToolRecord("erase", {}, 0.1, ""),), 0, 10)],
                    images=[] if handle is None else [handle],
                    stop_reason=stop,
                    final_image=handle,
                    seconds=2.0,
                    score=score,
                    reward=None if score is None else score / 100,
                )
                task = TaskFacts(f"{kind}-{place}", f"Do {kind}", kind)
                append_line(file, TrajectoryLine(chain, task, step=step, validate=validate))


def training(folder: Path, steps: int = 8, *, learns: bool = True) -> Path:
    """Write a training run that gets better at "named" and not clearly at "look", with a validation at both ends."""
    folder.mkdir(parents=True, exist_ok=True)
    config = f"agentfly: {{model: m, seed: 1}}\ntrainer: {{total_training_steps: {steps}}}\n"
    (folder / "config.yaml").write_text(config)
    for step in range(steps + 1):
        good = 20 + (60 * step / steps if learns else 0)
        rise = (good - 20) / 4
        if step in (0, steps):
            held_out: dict[str, list[list[float | None]]] = {
                "named": [[good], [good + 5], [good + 2]],
                "look": [[30 + rise], [40], [20 + rise]],
            }
            add_chains(folder / FILE_NAME, held_out, step, validate=True)
        if step:
            chains: dict[str, list[list[float | None]]] = {
                "named": [[good, good + 10], [good + 2, good + 4]],
                "look": [[30, 50], [20, 40]],
            }
            add_chains(folder / FILE_NAME, chains, step, images=step == steps)
            add_metrics(folder, step, {"reward/mean": good / 100, "timing_s/step": 3.0, "timing_s/gen": 2.0})
    return folder


def add_metrics(folder: Path, step: int, data: Mapping[str, float]) -> None:
    """Append the metrics of a step to a run."""
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "data": dict(data)}) + "\n")


def opened(folder: Path) -> OpenRun:
    """Return a run with its index read."""
    run = OpenRun(find_run(folder, folder.name))
    run.up_to_date(60.0)
    return run
