"""What inpainter and editor have in common: weights, batches, and one way from a request to an image."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.diffusion import lightning
from agentfly.vision.diffusion.batching import Abandoned, Batcher
from agentfly.vision.diffusion.calls import Caller, Order, Plan
from agentfly.vision.diffusion.pipelines import Role, Weights, shared_weights
from agentfly.vision.diffusion.settings import DiffusionSettings
from agentfly.vision.model_runtime import Worker, memory_guard

_Request = tuple[Plan, Order]


class DiffusionEngine:
    """Makes images with the pipeline of one role.

    With a Lightning LoRA, steps and guidance are those that it was distilled for, whatever a request says: with others
    it only makes worse images. The name of the engine says so.

    Args:
        settings: of the engine.
        role: what the pipeline is for.
        weights: weights to use; None takes those that engines with equal settings share.
    """

    def __init__(self, settings: DiffusionSettings, role: Role, weights: Weights | None = None) -> None:
        self._settings = settings
        self._role: Role = role
        self.weights = weights or shared_weights(settings.weights)
        self.name = self.weights.name
        self._caller: Caller | None = None
        self._loader = Worker("diffusion-load")
        self._batcher: Batcher[_Request, Image.Image | None] = Batcher(
            self._run,
            max_batch=settings.max_batch,
            window=settings.batch_window_ms / 1000,
            threads=self.weights.settings.concurrency,
        )

    def load(self) -> Caller:
        """Load the weights, if that has not happened yet. Takes seconds to minutes, so not for an event loop.

        Raises:
            ConfigError: the checkpoint cannot be loaded, or cannot do this.
        """
        if self._caller is None:
            self._caller = Caller(self.weights.template(self._role), self._settings.area)
        return self._caller

    def close(self) -> None:
        """Drop what waits; what runs ends by itself."""
        self._batcher.close()
        self._loader.close()

    async def ready(self) -> Caller:
        """Load the weights off the event loop, if that has not happened yet."""
        if self._caller is None:
            return await self._loader.run(self.load)
        return self._caller

    async def make(
        self, order: Order, *, steps: int | None, guidance: float | None, strength: float | None = None
    ) -> Image.Image:
        """The image for an order, at the size that the pipeline works at.

        Raises:
            ToolError: the pipeline has no such setting, memory ran out, or the safety checker withheld the image.
        """
        caller = await self.ready()
        caller.check_negative(order.negative_prompt)
        fixed = self.weights.settings.lightning_steps
        if fixed is not None:
            steps, guidance = fixed, lightning.GUIDANCE
        plan = caller.plan(
            order.image.size,
            self._settings.steps if steps is None else steps,
            self._settings.guidance if guidance is None else guidance,
            strength,
        )
        image = await self._batcher.submit(plan if caller.batches else object(), (plan, order))
        if image is None:
            raise ToolError(f"the safety checker of {self.name} withheld the image: use another prompt")
        return image

    def _run(self, requests: Sequence[_Request], abandoned: Abandoned) -> list[Image.Image | None]:
        caller, plan = self.load(), requests[0][0]
        with memory_guard(self.name), self.weights.fresh(self._role) as pipeline:
            return caller.run(pipeline, plan, [order for _, order in requests], abandoned)


def seed_or_random(seed: int | None) -> int:
    """The seed itself, or one drawn by the system where a request has none."""
    return secrets.randbits(32) if seed is None else seed
