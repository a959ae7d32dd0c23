"""SDXL in this process: one pipeline, loaded at the first picture, one call at a time in a thread of its own."""

from __future__ import annotations

from typing import Any

from PIL import Image

from agentfly.systems.director_generator.painters import TEXT_TO_IMAGE, PicturePrompt
from agentfly.systems.director_generator.settings import SdxlSettings
from agentfly.vision.runtime import (
    Worker,
    check_folder,
    loading,
    memory_guard,
    require,
    resolve_device,
    resolve_dtype,
    short_name,
)

_WANTED = "a text-to-image pipeline of diffusers"


class LocalPainter:
    """Pictures from a diffusers pipeline on `settings.device`.

    Raises:
        MissingExtraError: diffusers is not installed.
        ConfigError: the folder is no pipeline.
    """

    medium = TEXT_TO_IMAGE

    def __init__(self, settings: SdxlSettings) -> None:
        require("diffusers", "sdxl mode local", "diffusion")
        check_folder(settings.model, "model_index.json", _WANTED)
        self.name = f"local {short_name(settings.model)}"
        self._settings = settings
        self._worker = Worker("sdxl")
        self._pipeline: Any = None

    async def paint(self, wanted: PicturePrompt, seed: int, source: Image.Image | None) -> Image.Image:
        """A picture; see `Painter`. The same seed gives the same picture on every device."""
        return await self._worker.run(self._paint, wanted, seed)

    async def close(self) -> None:
        """Drop what waits, and the pipeline."""
        self._worker.close()
        self._pipeline = None

    def _paint(self, wanted: PicturePrompt, seed: int) -> Image.Image:
        import torch

        if self._pipeline is None:
            self._pipeline = self._load()
        width, height = self._settings.sides
        call: dict[str, Any] = {
            "negative_prompt": wanted.negative or None,
            "num_inference_steps": self._settings.steps,
            "guidance_scale": self._settings.guidance_scale,
        }
        with memory_guard(self.name), torch.inference_mode():
            result = self._pipeline(
                prompt=wanted.prompt,
                width=width,
                height=height,
                generator=torch.Generator("cpu").manual_seed(seed),
                **{name: value for name, value in call.items() if value is not None},
            )
        image: Image.Image = result.images[0]
        return image

    def _load(self) -> Any:
        from diffusers import DiffusionPipeline

        device = resolve_device(self._settings.device)
        with loading(self._settings.model, _WANTED):
            pipeline = DiffusionPipeline.from_pretrained(
                self._settings.model, torch_dtype=resolve_dtype(self._settings.dtype, device)
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)
