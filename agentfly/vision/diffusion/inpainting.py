"""Inpainting with any diffusers inpaint pipeline: SD, SDXL, Flux Fill, QwenImageEditInpaint, ..."""

from __future__ import annotations

import asyncio

from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.base import InpaintParams
from agentfly.vision.compositing import paste_back, solid
from agentfly.vision.diffusion.calls import Order
from agentfly.vision.diffusion.engine import DiffusionEngine, seed_or_random
from agentfly.vision.diffusion.pipelines import Weights
from agentfly.vision.diffusion.settings import InpainterSettings


class DiffusionInpainter(DiffusionEngine):
    """Repaints what a mask covers.

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
        """The image with the masked part repainted, same size; an alpha channel stays as it is.

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
