"""What both servers of peers serve: an inpainting pipeline of diffusers, base64 in and out."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image
from pydantic import BaseModel


class Edit(BaseModel):
    """A request, in the JSON form that our own server takes, too."""

    image: str
    mask: str
    prompt: str
    num_inference_steps: int
    seed: int


class Pipeline:
    """The pipeline on the processor, with one thread as in our own workers."""

    def __init__(self, path: str) -> None:
        torch.set_num_threads(1)
        self._pipe: Any = StableDiffusionInpaintPipeline.from_pretrained(path, safety_checker=None)
        self._pipe.set_progress_bar_config(disable=True)

    def run(self, edits: Sequence[Edit]) -> list[str]:
        """Return the images of a batch of requests of one size and one number of steps."""
        images, masks = [read(edit.image) for edit in edits], [read(edit.mask) for edit in edits]
        made = self._pipe(
            [edit.prompt for edit in edits],
            image=[image.convert("RGB") for image in images],
            mask_image=[mask.convert("L") for mask in masks],
            width=images[0].width,
            height=images[0].height,
            num_inference_steps=edits[0].num_inference_steps,
            generator=[torch.Generator().manual_seed(edit.seed) for edit in edits],
        )
        return [write(image) for image in made.images]


def read(text: str) -> Image.Image:
    """Return the image of a base64 text."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def write(image: Image.Image) -> str:
    """Return the base64 of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
