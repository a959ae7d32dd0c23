"""The same chains on smolagents: a ToolCallingAgent for each, in a thread for each."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from loop_work import MODEL, TASK, Canvas, Job, measured
from smolagents import LogLevel, OpenAIServerModel, Tool, ToolCallingAgent


class Paint(Tool):
    """The tool of one chain."""

    name = "paint"
    description = "Paint a rectangle on the image."
    inputs: ClassVar[dict[str, dict[str, str]]] = {
        "chain": {"type": "integer", "description": "The chain."},
        "turn": {"type": "integer", "description": "The turn."},
    }
    output_type = "string"

    def __init__(self, canvas: Canvas) -> None:
        super().__init__()
        self.canvas, self.fresh = canvas, False

    def forward(self, chain: int, turn: int) -> str:
        """Wait and paint."""
        time.sleep(self.canvas.seconds(turn))
        self.canvas.paint(turn)
        self.fresh = True
        return "painted"


def one_chain(model: Any, job: Job, chain: int) -> bool:
    """Run a chain; a callback, as smolagents' documents have it, shows the image of a step to the model in the next."""
    paint = Paint(Canvas(job, chain))

    def show(step: Any, agent: Any) -> None:
        if paint.fresh:
            step.observations_images, paint.fresh = [paint.canvas.image], False

    agent = ToolCallingAgent(
        [paint], model, step_callbacks=[show], max_steps=job.turns + 8, verbosity_level=LogLevel.OFF
    )
    return bool(agent.run(f"chain-{chain}: {TASK}", images=[job.photos[chain]]) == "done")


def run(job: Job) -> int:
    """Run all chains."""
    model = OpenAIServerModel(MODEL, api_base=job.base_url, api_key="none")
    with ThreadPoolExecutor(job.chains) as threads:
        futures = [threads.submit(one_chain, model, job, chain) for chain in range(job.chains)]
    return sum(future.exception() is None and future.result() for future in futures)


if __name__ == "__main__":
    measured(run)
