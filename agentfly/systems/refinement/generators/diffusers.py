"""Pictures by a diffusers pipeline in this process: the first from text, later ones from the last picture.

A checkpoint that starts from text makes later pictures image-to-image; one that starts from a picture is an editor and
needs a reference.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from typing import Any

from PIL import Image

from agentfly.errors import ConfigError, EngineUnavailable
from agentfly.systems.refinement.generators.base import Picture, PictureRequest
from agentfly.systems.refinement.settings import RefinementSettings
from agentfly.vision.base import EditParams
from agentfly.vision.compositing import flattened
from agentfly.vision.diffusion import DiffusionEditor, EditorSettings
from agentfly.vision.runtime import Worker, check_folder, loading, memory_guard, require, resolve_device, resolve_dtype

logger = logging.getLogger(__name__)

_WANTED = "a diffusers pipeline"
# Latents are an eighth of the picture and are halved on the way.
_MULTIPLE = 16


class DiffusersGenerator:
    """Makes pictures with one checkpoint; it is loaded at the first request.

    Args:
        settings: of the loop; `diffusers_model` is the checkpoint.

    Raises:
        MissingExtraError: diffusers is not installed.
        ConfigError: the folder is no diffusers pipeline.
    """

    def __init__(self, settings: RefinementSettings) -> None:
        require("diffusers", "the generator 'diffusers'", "diffusion")
        check_folder(settings.diffusers_model, "model_index.json", _WANTED)
        self.name = settings.diffusers_model
        self._settings = settings
        self._worker = Worker("refinement-diffusers")
        self._text: Any = None
        self._image: Any = None
        self._editor: DiffusionEditor | None = None

    async def generate(self, request: PictureRequest) -> Picture:
        """The picture of a request; see `Generator`."""
        start = request.previous.image if request.previous else next(iter(request.references), None)
        if request.previous is None and len(request.references) > 1:
            raise EngineUnavailable("a diffusers pipeline starts from one picture: give one reference")
        await self._worker.run(self._load)
        if self._editor is None:
            return Picture(await self._worker.run(self._make, request, start))
        if start is None:
            raise EngineUnavailable(f"{self.name} edits and makes none from text: give a reference picture")
        params = EditParams(num_inference_steps=self._settings.steps, seed=self._seed(request))
        return Picture(await self._editor.edit(start, request.prompt, params))

    async def close(self) -> None:
        """Drop what waits."""
        self._worker.close()
        if self._editor is not None:
            await asyncio.to_thread(self._editor.close)

    def _load(self) -> None:
        if self._text is not None or self._editor is not None:
            return
        import diffusers

        settings = self._settings
        with loading(self.name, _WANTED):
            name = diffusers.DiffusionPipeline.load_config(self.name)["_class_name"]
        pipeline_class = getattr(diffusers, name, None)
        if pipeline_class is None:
            raise ConfigError(f"{self.name!r} is a {name}, which this version of diffusers does not know")
        if "image" in inspect.signature(pipeline_class.__call__).parameters:
            self._editor = DiffusionEditor(EditorSettings(model=self.name, device=settings.device))
            return
        device = resolve_device(settings.device)
        with loading(self.name, _WANTED):
            pipeline = pipeline_class.from_pretrained(self.name, torch_dtype=resolve_dtype("auto", device))
        pipeline.set_progress_bar_config(disable=True)
        self._text = pipeline.to(device)
        try:
            self._image = diffusers.AutoPipelineForImage2Image.from_pipe(self._text)
            self._image.set_progress_bar_config(disable=True)
        except ValueError:
            logger.warning("diffusers has no image-to-image pipeline for %s: every picture is made from text", name)

    def _make(self, request: PictureRequest, start: Image.Image | None) -> Image.Image:
        import torch

        settings = self._settings
        call: dict[str, Any] = {"prompt": request.prompt}
        call["generator"] = torch.Generator("cpu").manual_seed(self._seed(request))
        if settings.steps is not None:
            call["num_inference_steps"] = settings.steps
        pipeline, size = self._text, settings.pixels
        if start is not None and self._image is not None:
            pipeline = self._image
            call |= {"image": _fitted(start, size), "strength": settings.strength}
        elif start is not None and request.previous is None:
            raise EngineUnavailable(f"{self.name} makes pictures from text only: leave the references out")
        elif size is not None:
            call |= {"width": size[0], "height": size[1]}
        with memory_guard(self.name), torch.inference_mode():
            image: Image.Image = pipeline(**call).images[0]
        return image

    def _seed(self, request: PictureRequest) -> int:
        seed = self._settings.seed
        return secrets.randbits(32) if seed is None else seed + request.number - 1


def _fitted(start: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """The picture in the wanted size, or in the nearest to its own that a pipeline takes."""
    width, height = size or start.size
    whole = (max(1, round(width / _MULTIPLE)) * _MULTIPLE, max(1, round(height / _MULTIPLE)) * _MULTIPLE)
    picture = flattened(start)
    return picture if picture.size == whole else picture.resize(whole, Image.Resampling.LANCZOS)
