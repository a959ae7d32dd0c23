"""Images by any diffusers pipeline, on shared weights and in batches.

Inpainting (SD, SDXL, Flux Fill, QwenImageEditInpaint, ...), editing (QwenImageEdit, QwenImageEditPlus, Flux Kontext,
...), images from text, and variations of images. Every request has a random generator of its own, on the CPU, so that
its image depends on its seed and not on its batch or its device.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from PIL import Image

from agentfly.errors import ToolError
from agentfly.images import on_white
from agentfly.vision.base import EditParams, InpaintParams, check_images
from agentfly.vision.compositing import paste_back, restored, solid
from agentfly.vision.diffusion import lightning
from agentfly.vision.diffusion.batching import Abandoned, Batcher
from agentfly.vision.diffusion.calls import Caller, Order, Plan, stop_callback
from agentfly.vision.diffusion.pipelines import Role, Weights, shared_weights
from agentfly.vision.diffusion.settings import DiffusionSettings, EditorSettings, InpainterSettings, WeightSettings
from agentfly.vision.model_runtime import Worker, memory_guard, shape_guard

_Request = tuple[Plan, Order]
R = TypeVar("R")

# Seconds that the first request of a batch of `TextToImage` waits for others.
_WINDOW = 0.005
_SETTINGS = ("negative_prompt", "guidance_scale", "true_cfg_scale", "num_inference_steps", "width", "height")


class _Batching(ABC, Generic[R]):
    """An engine that makes the images of several requests at once, and loads its weights off the event loop."""

    def __init__(self, weights: Weights, *, max_batch: int, window: float, threads: int = 1) -> None:
        self.weights, self.name = weights, weights.name
        self._loader = Worker("diffusion-load")
        self._batcher: Batcher[R, Image.Image | None] = Batcher(
            self._run, max_batch=max_batch, window=window, threads=threads
        )

    def close(self) -> None:
        """Drop the requests that wait; those that run stop at their next step."""
        self._batcher.close()
        self._loader.close()

    async def _submit(self, key: Hashable, request: R) -> Image.Image:
        """Return the image of a request; requests with equal keys may share a batch."""
        image = await self._batcher.submit(key, request)
        if image is None:
            raise ToolError(f"the safety checker of {self.name} withheld the image: use another prompt")
        return image

    @abstractmethod
    def _run(self, requests: Sequence[R], abandoned: Abandoned) -> Sequence[Image.Image | None]:
        """Make the images of a batch in a thread; None for one that the safety checker withheld."""


class DiffusionEngine(_Batching[_Request]):
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
        self._caller: Caller | None = None
        weights = weights or shared_weights(settings.weights)
        super().__init__(
            weights,
            max_batch=settings.max_batch,
            window=settings.batch_window_ms / 1000,
            threads=weights.settings.concurrency,
        )

    def load(self) -> Caller:
        """Load the weights, if they are not loaded yet. Takes seconds to minutes, so not for an event loop.

        Raises:
            ConfigError: the checkpoint cannot be loaded, or cannot do this.
        """
        if self._caller is None:
            self._caller = Caller(self.weights.template(self._role), self._settings.area)
        return self._caller

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
        with shape_guard(self.name, order.image, *order.references):
            return await self._submit(plan if caller.batches else object(), (plan, order))

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
            await asyncio.to_thread(on_white, image),
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
        return await self._edit((image,), instruction, params)

    @property
    def max_images(self) -> int:
        """Images of a call at most; a model that takes one is known when it is loaded."""
        takes_one = self._caller is not None and not self._caller.takes_references
        return 1 if takes_one else self.settings.max_images

    async def edit_images(self, images: Sequence[Image.Image], instruction: str, params: EditParams) -> Image.Image:
        """Return the first image edited (RGB), same size, with the others as references; see `MultiImageEditor`.

        Raises:
            EngineUnavailable: the pipeline takes one image.
            ToolError: it takes fewer images, has no such setting, or memory ran out.
            ConfigError: the checkpoint cannot be loaded.
        """
        await self.ready()
        check_images(self.name, len(images), self.max_images)
        return await self._edit(images, instruction, params)

    async def _edit(self, images: Sequence[Image.Image], instruction: str, params: EditParams) -> Image.Image:
        source, *references = [await asyncio.to_thread(on_white, image) for image in images]
        order = Order(
            source,
            instruction,
            seed_or_random(params.seed),
            negative_prompt=params.negative_prompt,
            references=tuple(references),
        )
        edited = await self.make(order, steps=params.num_inference_steps, guidance=params.true_cfg_scale)
        return await asyncio.to_thread(restored, edited, images[0].size)


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


class TextToImage(_Batching[TextRequest]):
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
        self._accepted: frozenset[str] = frozenset()
        self._multiple = 1
        super().__init__(weights or shared_weights(settings), max_batch=max_batch, window=_WINDOW)

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
        image = await self._submit(replace(work, prompt="", seed=0), work)
        size = (request.width or image.width, request.height or image.height)
        return image if image.size == size else await asyncio.to_thread(restored, image, size)

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
