"""Images from text by any diffusers pipeline, and variations of images by the same weights.

Requests with equal settings that come within a few milliseconds are one batch. Every request has a random generator of
its own, on the CPU, so that its image depends on its seed and not on its batch or its device.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from agentfly.errors import ToolError
from agentfly.images import on_white
from agentfly.vision.compositing import restored
from agentfly.vision.diffusion.batching import Abandoned, Batcher
from agentfly.vision.diffusion.calls import Order, stop_callback
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
        prompt: description of the image.
        seed: of its noise.
        negative_prompt: what to avoid.
        guidance_scale, true_cfg_scale: a pipeline has one of them, or both.
        num_inference_steps: of denoising.
        width, height: in pixels; the pipeline works at the next size that it supports, and its image is resized.
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
        """Load the weights, if they are not loaded yet. Takes seconds to minutes, so not for an event loop.

        Raises:
            ConfigError: the checkpoint does not start from text, or cannot be loaded.
        """
        if not self._accepted:
            template = self.weights.template("generate")
            # Transformers take patches of two by two latents; Stable Diffusion wants multiples of 8 with any VAE.
            self._multiple = math.lcm(8, template.vae_scale_factor * (1 if "unet" in template.components else 2))
            self._accepted = frozenset(inspect.signature(template.__call__).parameters)

    async def make(self, request: TextRequest) -> Image.Image:
        """Return the image of a request; cancelling the call withdraws the request, even while it runs.

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
        """Drop the requests that wait; those that run stop at their next step."""
        self._batcher.close()
        self._loader.close()

    def _whole(self, side: int | None) -> int | None:
        """Return the next side that is a whole number of latents."""
        return None if side is None else math.ceil(side / self._multiple) * self._multiple

    def _run(self, requests: Sequence[TextRequest], abandoned: Abandoned) -> Sequence[Image.Image | None]:
        import torch

        shared = {name: getattr(requests[0], name) for name in _SETTINGS}
        call: dict[str, object] = {name: value for name, value in shared.items() if value is not None}
        if "negative_prompt" in call:
            call["negative_prompt"] = [call["negative_prompt"]] * len(requests)
        if "callback_on_step_end" in self._accepted:
            call["callback_on_step_end"] = stop_callback(abandoned)
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
        """Return a variation, at the size that the pipeline works at for such an image; transparent parts become white.

        Args:
            start: the image to vary.
            prompt: description of the result.
            seed: of the noise.
            strength: amount of noise, from 0 (the image stays) to 1 (nothing of it is left).
            steps: of denoising; only the last share `strength` of them is done.

        Raises:
            ToolError: strength and steps leave nothing to do, or memory ran out.
            ConfigError: the checkpoint cannot be loaded, or has no such pipeline.
        """
        order = Order(await asyncio.to_thread(on_white, start), prompt, seed)
        return await self.make(order, steps=steps, guidance=None, strength=strength)
