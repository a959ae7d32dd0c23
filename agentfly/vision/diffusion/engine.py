"""Inpainting (SD, SDXL, Flux Fill, QwenImageEditInpaint, ...) and editing (QwenImageEdit, QwenImageEditPlus, Flux
Kontext, ...) with any diffusers pipeline, on shared weights and in batches.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from PIL import Image

from agentfly.errors import ToolError
from agentfly.images import on_white
from agentfly.vision.base import EditParams, InpaintParams
from agentfly.vision.compositing import paste_back, restored, solid
from agentfly.vision.diffusion import lightning
from agentfly.vision.diffusion.batching import Abandoned, Batcher
from agentfly.vision.diffusion.calls import Caller, Order, Plan
from agentfly.vision.diffusion.pipelines import Role, Weights, shared_weights
from agentfly.vision.diffusion.settings import DiffusionSettings, EditorSettings, InpainterSettings
from agentfly.vision.model_runtime import Worker, memory_guard

_Request = tuple[Plan, Order]


class DiffusionEngine:
    """Makes images with the pipeline of one role.

    With a Lightning LoRA, steps and guidance are those of its distillation in spite of a request: others only make
    worse images. The name of the engine says so.

    Args:
        settings: of the engine.
        role: of the pipeline.
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
        """Load the weights, if they are not loaded yet. Takes seconds to minutes, so not for an event loop.

        Raises:
            ConfigError: the checkpoint cannot be loaded, or cannot do this.
        """
        if self._caller is None:
            self._caller = Caller(self.weights.template(self._role), self._settings.area)
        return self._caller

    def close(self) -> None:
        """Drop the requests that wait; those that run end by themselves."""
        self._batcher.close()
        self._loader.close()

    async def ready(self) -> Caller:
        """Load the weights off the event loop, if they are not loaded yet."""
        if self._caller is None:
            return await self._loader.run(self.load)
        return self._caller

    async def make(
        self, order: Order, *, steps: int | None, guidance: float | None, strength: float | None = None
    ) -> Image.Image:
        """Return the image for an order, at the size that the pipeline works at.

        Args:
            order: the image to make.
            steps: denoising steps; None takes those of the settings.
            guidance: guidance scale; None takes that of the settings.
            strength: amount of noise, 0 to 1; None is the pipeline's default.

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
    """Return the seed, or one drawn by the system where a request has none."""
    return secrets.randbits(32) if seed is None else seed


class DiffusionInpainter(DiffusionEngine):
    """Repaints the masked part of an image.

    The pipeline repaints where the mask is at least half as bright as at its brightest, at its own resolution. The
    result is brought back to the image's size and blended in by the mask's grey values: where the mask is 0, every
    pixel is exactly the source's.

    Args:
        settings: of the engine.
        weights: weights to use; None takes those that engines with equal settings share.
    """

    def __init__(self, settings: InpainterSettings | None = None, weights: Weights | None = None) -> None:
        self.settings = settings or InpainterSettings()
        super().__init__(self.settings, "inpaint", weights)

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        """Return the image with the masked part repainted, same size; see `Inpainter`. An alpha channel stays as it is.

        Raises:
            ToolError: mask and image differ in size, the pipeline has no such setting, or memory ran out.
            ConfigError: the checkpoint cannot be loaded.
        """
        if mask.size != image.size:
            raise ToolError(f"the mask is {mask.width}x{mask.height} but the image {image.width}x{image.height}")
        grey = mask.convert("L")
        if grey.getbbox() is None:
            raise ToolError("the mask is black everywhere, so there is nothing to repaint: detect something first")
        order = Order(
            await asyncio.to_thread(image.convert, "RGB"),
            prompt.strip() or self.settings.removal_prompt,
            seed_or_random(params.seed),
            await asyncio.to_thread(solid, grey),
            params.negative_prompt,
        )
        painted = await self.make(
            order, steps=params.num_inference_steps, guidance=params.guidance_scale, strength=params.strength
        )
        return await asyncio.to_thread(paste_back, image, painted, grey)


class DiffusionEditor(DiffusionEngine):
    """Edits a whole image.

    Args:
        settings: of the engine.
        weights: weights to use; None takes those that engines with equal settings share.
    """

    def __init__(self, settings: EditorSettings | None = None, weights: Weights | None = None) -> None:
        self.settings = settings or EditorSettings()
        super().__init__(self.settings, "edit", weights)

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        """Return the edited image (RGB), same size; see `Editor`. Transparent parts of the source count as white.

        Raises:
            ToolError: the pipeline has no such setting, or memory ran out.
            ConfigError: the checkpoint cannot be loaded.
        """
        source = await asyncio.to_thread(on_white, image)
        order = Order(source, instruction, seed_or_random(params.seed), negative_prompt=params.negative_prompt)
        edited = await self.make(order, steps=params.num_inference_steps, guidance=params.true_cfg_scale)
        return await asyncio.to_thread(restored, edited, image.size)
