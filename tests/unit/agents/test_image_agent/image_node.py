"""An image server's engine that can edit and nothing else."""

from __future__ import annotations

from PIL import ImageOps

from agentfly.errors import ToolError
from agentfly.serving.image_server import EngineOptions, Operation, Outcome, Work

INVERTER = {"model_type": "custom", "model_path": "tests.unit.agents.test_image_agent.image_node:inverter"}


class Inverter:
    """Inverts images, whatever it is asked, except where it is asked to refuse."""

    name = "inverter"
    operations = frozenset((Operation.edit,))

    async def run(self, work: Work) -> Outcome:
        if work.prompt == "refuse":
            raise ToolError("this cannot be done: try another prompt")
        return Outcome(ImageOps.invert(work.images[0].convert("RGB")))


def inverter(options: EngineOptions) -> Inverter:
    """For `--model-path tests.unit.agents.test_image_agent.image_node:inverter`."""
    return Inverter()
