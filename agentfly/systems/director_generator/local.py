"""SDXL in this process: one pipeline, loaded at the first image, whose batches all generators share."""

from __future__ import annotations

from PIL import Image

from agentfly.systems.director_generator.painters import TEXT_TO_IMAGE, ImagePrompt
from agentfly.systems.director_generator.settings import SdxlSettings
from agentfly.vision.diffusion import TextRequest, TextToImage, WeightSettings


class LocalPainter:
    """Images from a diffusers pipeline on `settings.device`.

    Raises:
        MissingExtraError: diffusers is not installed.
        ConfigError: the folder is no pipeline.
    """

    medium = TEXT_TO_IMAGE

    def __init__(self, settings: SdxlSettings) -> None:
        self._settings = settings
        self._model = TextToImage(WeightSettings(model=settings.model, device=settings.device, dtype=settings.dtype))
        self.name = f"local {self._model.name}"

    async def paint(self, wanted: ImagePrompt, seed: int, source: Image.Image | None) -> Image.Image:
        """An image; see `Painter`. The same seed gives the same image on every device."""
        width, height = self._settings.sides
        request = TextRequest(
            wanted.prompt,
            seed,
            negative_prompt=wanted.negative or None,
            guidance_scale=self._settings.guidance_scale,
            num_inference_steps=self._settings.steps,
            width=width,
            height=height,
        )
        return await self._model.make(request)

    async def close(self) -> None:
        """Drop what waits."""
        self._model.close()
