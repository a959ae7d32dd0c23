"""Images by a diffusers pipeline in this process: the first from text, later ones from the last image.

A checkpoint that starts from text makes later images image-to-image; one that starts from an image is an editor and
needs a reference.
"""

from __future__ import annotations

import logging

from PIL import Image

from agentfly.errors import ConfigError, EngineUnavailable
from agentfly.systems.generators.base import GeneratedImage, ImageRequest
from agentfly.vision.base import EditParams
from agentfly.vision.diffusion import (
    DiffusionEditor,
    DiffusionSettings,
    EditorSettings,
    ImageToImage,
    TextRequest,
    TextToImage,
    WeightSettings,
)
from agentfly.vision.diffusion.engine import seed_or_random
from agentfly.vision.diffusion.pipelines import Role, class_name, role_class, shared_weights
from agentfly.vision.model_runtime import Worker

logger = logging.getLogger(__name__)


class DiffusersGenerator:
    """A generator on one diffusers checkpoint, which is loaded at the first request.

    Args:
        weights: the checkpoint, its device and its precision.
        name: for results; "local" and the checkpoint's name by default.
        size: width and height in pixels; None leaves them to the pipeline.
        steps, guidance_scale: of the denoiser; None leaves them to the pipeline.
        strength: how much an image-to-image pipeline changes the last image, from 0 to 1.
        seed: of the first image of a series, counted up; None draws one for each image.
        max_batch: images from text made at once.
        text_only: make every image from text, whatever else the checkpoint could do.

    Raises:
        MissingExtraError: diffusers is not installed.
        ConfigError: the folder is no diffusers pipeline.
    """

    def __init__(
        self,
        weights: WeightSettings,
        *,
        name: str | None = None,
        size: tuple[int, int] | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        strength: float = 0.6,
        seed: int | None = None,
        max_batch: int = 4,
        text_only: bool = False,
    ) -> None:
        self._settings = weights
        self._weights = shared_weights(weights)
        self.name = name or f"local {self._weights.name}"
        self._size, self._steps, self._guidance_scale = size, steps, guidance_scale
        self._strength, self._seed, self._max_batch = strength, seed, max_batch
        self._text_only = text_only
        self._chooser = Worker("generator-diffusers")
        self._text: TextToImage | None = None
        self._vary: ImageToImage | None = None
        self._editor: DiffusionEditor | None = None

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make an image; see `ImageGenerator`. The same seed gives the same image on every device."""
        if len(request.starts) > 1:
            raise EngineUnavailable("a diffusers pipeline starts from one image: give one reference")
        start = next(iter(request.starts), None)
        await self._chooser.run(self._choose)
        seed, negative = seed_or_random(request.seed_or_next(self._seed)), request.negative_prompt or None
        if self._editor is not None:
            if start is None:
                raise EngineUnavailable(f"{self.name} edits and makes none from text: give a reference image")
            params = EditParams(negative, num_inference_steps=self._steps, seed=seed)
            return GeneratedImage(await self._editor.edit(start, request.prompt, params))
        if start is not None and self._vary is not None:
            if self._size not in (None, start.size):
                start = start.resize(self._size, Image.Resampling.LANCZOS)
            return GeneratedImage(
                await self._vary.vary(start, request.prompt, seed=seed, strength=self._strength, steps=self._steps)
            )
        if start is not None and request.previous is None:
            raise EngineUnavailable(f"{self.name} makes images from text only: leave the references out")
        assert self._text is not None
        width, height = self._size or (None, None)
        wanted = TextRequest(
            request.prompt,
            seed,
            negative_prompt=negative,
            guidance_scale=self._guidance_scale,
            num_inference_steps=self._steps,
            width=width,
            height=height,
        )
        return GeneratedImage(await self._text.make(wanted))

    async def close(self) -> None:
        """Drop the requests that wait."""
        self._chooser.close()
        for engine in (self._text, self._vary, self._editor):
            if engine is not None:
                engine.close()

    def _choose(self) -> None:
        """Make the engines that fit the checkpoint; its index may have to come from the hub."""
        if self._text is not None or self._editor is not None:
            return
        native = None if self._text_only else class_name(self._settings)
        if native is not None and not _can(native, "generate", self.name):
            role_class(native, "edit", self.name)
            self._editor = DiffusionEditor(EditorSettings(**self._settings.model_dump()), self._weights)
            return
        self._text = TextToImage(self._settings, self._weights, max_batch=self._max_batch)
        if native is not None and _can(native, "vary", self.name):
            area = None if self._size is None else self._size[0] * self._size[1]
            settings = DiffusionSettings(**{**self._settings.model_dump(), "area": area})
            self._vary = ImageToImage(settings, self._weights)
        elif native is not None:
            logger.warning("diffusers has no image-to-image pipeline for %s: every image is made from text", native)


def _can(native: str, role: Role, model: str) -> bool:
    try:
        role_class(native, role, model)
    except ConfigError:
        return False
    return True
