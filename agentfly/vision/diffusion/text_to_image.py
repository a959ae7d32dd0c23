"""Images from text by any diffusers pipeline, and variations of images by the same weights.

Requests with equal settings that come within a few milliseconds are one batch. Every request has a random generator of
its own, on the CPU, so that its image depends on its seed and not on its company or its device.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.compositing import flattened, restored
from agentfly.vision.diffusion.batching import Abandoned, Batcher, Stopped
from agentfly.vision.diffusion.calls import Order
from agentfly.vision.diffusion.engine import DiffusionEngine
from agentfly.vision.diffusion.pipelines import Weights, shared_weights
from agentfly.vision.diffusion.settings import DiffusionSettings, WeightSettings
from agentfly.vision.model_runtime import Worker, memory_guard

_WINDOW = 0.005
_SETTINGS = ("negative_prompt", "guidance_scale", "true_cfg_scale", "num_inference_steps", "width", "height")


@dataclass(frozen=True)
class TextRequest:
    """One image to make. None leaves a setting to the pipeline's own default.

    Attributes:
        prompt: in words.
        seed: of its noise.
        negative_prompt: what to avoid.
        guidance_scale, true_cfg_scale: a pipeline has one of them, or both.
        num_inference_steps: of denoising.
        width, height: in pixels; the pipeline works at the next size that it can, and its image is brought to this.
    """

    prompt: str
    seed: int
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    num_inference_steps: int | None = None
    width: int | None = None
    height: int | None = None


class TextToImage:
    """A text-to-image pipeline: one hot pipeline, and clients that fan out share its batches.

    Args:
        settings: of its weights, which are loaded at the first request.
        weights: weights to use; None takes those that engines with equal settings share.
        max_batch: images made at once.

    Raises:
        MissingExtraError: diffusers is not installed.
        ConfigError: the folder is no diffusers pipeline.
    """

    def __init__(self, settings: WeightSettings, weights: Weights | None = None, *, max_batch: int = 4) -> None:
        self.weights = weights or shared_weights(settings)
        self.name = self.weights.name
        self._accepted: frozenset[str] = frozenset()
        self._multiple = 1
        self._loader = Worker("text-to-image-load")
        self._batcher: Batcher[TextRequest, Image.Image | None] = Batcher(
            self._run, max_batch=max_batch, window=_WINDOW
        )

    def load(self) -> None:
        """Load the weights, if that has not happened yet. Takes seconds to minutes, so not for an event loop.

        Raises:
            ConfigError: the checkpoint starts from something else than text, or cannot be loaded.
        """
        if not self._accepted:
            template = self.weights.template("generate")
            # Transformers take patches of two by two latents; Stable Diffusion wants eights, whatever its VAE does.
            self._multiple = math.lcm(8, template.vae_scale_factor * (1 if "unet" in template.components else 2))
            self._accepted = frozenset(inspect.signature(template.__call__).parameters)

    async def make(self, request: TextRequest) -> Image.Image:
        """The image of a request; cancelling the call withdraws it, even while it runs.

        Raises:
            ToolError: the pipeline does not know a setting, memory ran out, or the safety checker withheld the image.
            ConfigError: the checkpoint cannot be loaded, or does not start from text.
        """
        if not self._accepted:
            await self._loader.run(self.load)
        unknown = [name for name in _SETTINGS if getattr(request, name) is not None and name not in self._accepted]
        if unknown:
            raise ToolError(f"this model has no {', '.join(unknown)}: leave it out")
        work = replace(request, width=self._whole(request.width), height=self._whole(request.height))
        # Requests that differ in nothing but these can be one batch.
        image = await self._batcher.submit(replace(work, prompt="", seed=0), work)
        if image is None:
            raise ToolError(f"the safety checker of {self.name} withheld the image: use another prompt")
        size = (request.width or image.width, request.height or image.height)
        return image if image.size == size else await asyncio.to_thread(restored, image, size)

    def close(self) -> None:
        """Drop what waits; what runs stops at its next step."""
        self._batcher.close()
        self._loader.close()

    def _whole(self, side: int | None) -> int | None:
        """The next side that is whole latents."""
        return None if side is None else math.ceil(side / self._multiple) * self._multiple

    def _run(self, requests: Sequence[TextRequest], abandoned: Abandoned) -> Sequence[Image.Image | None]:
        import torch

        def stop_when_abandoned(_: Any, __: int, ___: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if abandoned():
                raise Stopped
            return tensors

        shared = {name: getattr(requests[0], name) for name in _SETTINGS}
        call: dict[str, Any] = {name: value for name, value in shared.items() if value is not None}
        if "negative_prompt" in call:
            call["negative_prompt"] = [call["negative_prompt"]] * len(requests)
        if "callback_on_step_end" in self._accepted:
            call["callback_on_step_end"] = stop_when_abandoned
        call["generator"] = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
        with memory_guard(self.name), self.weights.fresh("generate") as pipeline, torch.inference_mode():
            output = pipeline(prompt=[request.prompt for request in requests], **call)
        withheld = output.get("nsfw_content_detected") or [False] * len(requests)
        return [None if bad else image for image, bad in zip(output["images"], withheld, strict=True)]


class ImageToImage(DiffusionEngine):
    """Variations of an image by a checkpoint that starts from text: noise on the image, and denoising by the prompt.

    Args:
        settings: of the engine.
        weights: weights to use; None takes those that engines with equal settings share.
    """

    def __init__(self, settings: DiffusionSettings, weights: Weights | None = None) -> None:
        super().__init__(settings, "vary", weights)

    async def vary(
        self, start: Image.Image, prompt: str, *, seed: int, strength: float, steps: int | None = None
    ) -> Image.Image:
        """A variation, at the size that the pipeline works at for such an image; transparent parts count as white.

        Args:
            start: the image before.
            prompt: what the image shows.
            seed: of the noise.
            strength: how much noise, from 0 (the image stays) to 1 (nothing of it is left).
            steps: of denoising; only the last share `strength` of them is done.

        Raises:
            ToolError: strength and steps leave nothing to do, or memory ran out.
            ConfigError: the checkpoint cannot be loaded, or has no such pipeline.
        """
        order = Order(await asyncio.to_thread(flattened, start), prompt, seed)
        return await self.make(order, steps=steps, guidance=None, strength=strength)
