"""Editing by instruction with any diffusers editing pipeline: QwenImageEdit, QwenImageEditPlus, Flux Kontext, ..."""

from __future__ import annotations

import asyncio

from PIL import Image

from agentfly.vision.base import EditParams
from agentfly.vision.compositing import flattened, restored
from agentfly.vision.diffusion.calls import Order
from agentfly.vision.diffusion.engine import DiffusionEngine, seed_or_random
from agentfly.vision.diffusion.pipelines import Weights
from agentfly.vision.diffusion.settings import EditorSettings


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
        """The edited image (RGB), same size; transparent parts of the source count as white.

        Raises:
            ToolError: the pipeline has no such setting, or memory ran out.
            ConfigError: the checkpoint cannot be loaded.
        """
        source = await asyncio.to_thread(flattened, image)
        order = Order(source, instruction, seed_or_random(params.seed), negative_prompt=params.negative_prompt)
        edited = await self.make(order, steps=params.num_inference_steps, guidance=params.true_cfg_scale)
        return await asyncio.to_thread(restored, edited, image.size)
