"""Runs of a few chains for tests, by the real writers: images of one colour, and scores as a test wants them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory import StopReason, Trajectory, Turn
from agentfly.agents.trajectory_file import FILE_NAME, TrajectoryLine, append_line
from agentfly.evaluators import Score
from agentfly.images import ImageStore
from agentfly.viewer.opened import Viewer
from agentfly.viewer.runs import find_run


def colour(store: ImageStore, *parts: int) -> str:
    """Put an image of one colour into a store and return its handle."""
    return store.put(Image.new("RGB", (32, 32), (parts[0] % 256, parts[1] % 256, parts[2] % 256)))


def write_run(
    folder: Path, scores: Sequence[Sequence[float | None]], *, shade: int = 0, instruction: str = "Paint it"
) -> Path:
    """Write a run of agent chains and return its folder.

    Args:
        folder: made.
        scores: for each task those of its chains; each chain has an image of its own.
        shade: makes the results of this run differ from those of another one on the same tasks.
        instruction: of all tasks.
    """
    store = ImageStore(folder / "images")
    for number, row in enumerate(scores):
        source = colour(store, 1, number, 1)
        for place, score in enumerate(row):
            final = colour(store, 200 + shade, number, place)
            chain = Trajectory(
                f"{folder.name}-{number}-{place}",
                f"group-{number}",
                [],
                turns=[Turn("done", "stop", 0.1)],
                images=[source],
                stop_reason=StopReason.ANSWERED,
                final_image=final,
                score=score,
            )
            task = TaskFacts(f"task-{number}", instruction, "named", (source,))
            # Chains of one task that is wholly known are rows of their own only without its images.
            short = TaskFacts(task.id, task.instruction, task.task_type)
            given = {} if score is None else {"judge": Score(100 - score)}
            append_line(folder / FILE_NAME, TrajectoryLine(chain, short, scores=given))
    return folder


def view_of(*folders: Path) -> Viewer:
    """Return a viewer of runs, each under the name of its folder, with its index read."""
    viewer = Viewer([find_run(folder, folder.name) for folder in folders])
    for run in viewer.runs.values():
        run.index.refresh()
    return viewer
