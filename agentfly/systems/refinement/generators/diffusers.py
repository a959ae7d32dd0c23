"""Images by a diffusers pipeline in this process: the first from text, later ones from the last image.

A checkpoint that starts from text makes later images image-to-image; one that starts from an image is an editor and
needs a reference.
"""

from __future__ import annotations

import logging

from PIL import Image

from agentfly.errors import ConfigError, EngineUnavailable
from agentfly.systems.refinement.generators.base import GeneratedImage, ImageRequest
from agentfly.systems.refinement.settings import RefinementSettings
from agentfly.vision.base import EditParams
from agentfly.vision.diffusion import (
    DiffusionEditor,
    DiffusionSettings,
    EditorSettings,
    ImageToImage,
    TextRequest,
    TextToImage,
    Weights,
    WeightSettings,
)
from agentfly.vision.diffusion.engine import seed_or_random
from agentfly.vision.diffusion.pipelines import Role, class_name, role_class
from agentfly.vision.model_runtime import Worker

logger = logging.getLogger(__name__)


class DiffusersGenerator:
    """Makes images with one checkpoint; it is loaded at the first request.

    Args:
        settings: of the loop; `diffusers_model` is the checkpoint.

    Raises:
        MissingExtraError: diffusers is not installed.
        ConfigError: the folder is no diffusers pipeline.
    """

    def __init__(self, settings: RefinementSettings) -> None:
        self.name = settings.diffusers_model
        self._settings = settings
        self._place = WeightSettings(model=settings.diffusers_model, device=settings.device)
        self._weights = Weights(self._place)
        self._chooser = Worker("refinement-diffusers")
        self._text: TextToImage | None = None
        self._vary: ImageToImage | None = None
        self._editor: DiffusionEditor | None = None

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """The image of a request; see `Generator`."""
        start = request.previous.image if request.previous else next(iter(request.references), None)
        if request.previous is None and len(request.references) > 1:
            raise EngineUnavailable("a diffusers pipeline starts from one image: give one reference")
        await self._chooser.run(self._choose)
        number, settings = request.number - 1, self._settings
        seed = seed_or_random(None if settings.seed is None else settings.seed + number)
        if self._editor is not None:
            if start is None:
                raise EngineUnavailable(f"{self.name} edits and makes none from text: give a reference image")
            params = EditParams(num_inference_steps=settings.steps, seed=seed)
            return GeneratedImage(await self._editor.edit(start, request.prompt, params))
        if start is not None and self._vary is not None:
            varied = self._vary.vary(
                self._fitted(start), request.prompt, seed=seed, strength=settings.strength, steps=settings.steps
            )
            return GeneratedImage(await varied)
        if start is not None and request.previous is None:
            raise EngineUnavailable(f"{self.name} makes images from text only: leave the references out")
        assert self._text is not None
        width, height = settings.pixels or (None, None)
        wanted = TextRequest(request.prompt, seed, num_inference_steps=settings.steps, width=width, height=height)
        return GeneratedImage(await self._text.make(wanted))

    async def close(self) -> None:
        """Drop what waits."""
        self._chooser.close()
        for engine in (self._text, self._vary, self._editor):
            if engine is not None:
                engine.close()

    def _choose(self) -> None:
        """Find out what the checkpoint is; its index may have to come from the hub."""
        if self._text is not None or self._editor is not None:
            return
        name = class_name(self._place)
        if not _can(name, "generate", self.name):
            role_class(name, "edit", self.name)
            self._editor = DiffusionEditor(EditorSettings(**self._place.model_dump()), self._weights)
            return
        self._text = TextToImage(self._place, self._weights, max_batch=1)
        if _can(name, "vary", self.name):
            pixels = self._settings.pixels
            area = None if pixels is None else pixels[0] * pixels[1]
            self._vary = ImageToImage(DiffusionSettings(**{**self._place.model_dump(), "area": area}), self._weights)
        else:
            logger.warning("diffusers has no image-to-image pipeline for %s: every image is made from text", name)

    def _fitted(self, start: Image.Image) -> Image.Image:
        size = self._settings.pixels
        return start if size in (None, start.size) else start.resize(size, Image.Resampling.LANCZOS)


def _can(native: str, role: Role, model: str) -> bool:
    try:
        role_class(native, role, model)
    except ConfigError:
        return False
    return True
