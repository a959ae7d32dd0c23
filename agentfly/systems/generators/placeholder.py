"""Placeholders: images that say that no model made them, for trials and in place of images that could not be made."""

from __future__ import annotations

import asyncio
import logging
import textwrap

from PIL import Image, ImageDraw, ImageFont

from agentfly.errors import BackendError, ToolError
from agentfly.systems.generators.base import GeneratedImage, ImageGenerator, ImageRequest

logger = logging.getLogger(__name__)


class PlaceholderGenerator:
    """A generator of placeholders with the prompt written on them.

    Args:
        size: width and height in pixels.
    """

    name = "mock"

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make a placeholder; equal prompts and seeds give equal ones."""
        note = f"seed {request.seed}"
        return GeneratedImage(await asyncio.to_thread(placeholder, self._size, request.prompt, note))

    async def close(self) -> None:
        """Do nothing: there is nothing to free."""


class FailoverGenerator:
    """A generator whose failed images are replaced by placeholders, marked by `GeneratedImage.stand_in`.

    Wrong settings and keys still raise `ConfigError`: placeholders for a whole run would hide them.

    Args:
        generator: makes the images.
        size: width and height of the placeholders in pixels.
    """

    def __init__(self, generator: ImageGenerator, size: tuple[int, int]) -> None:
        self.generator = generator
        self._size = size

    @property
    def name(self) -> str:
        """The name of the generator that makes the images."""
        return self.generator.name

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make an image, or a placeholder that says which image it stands in for.

        Raises:
            ConfigError: settings or keys are wrong.
        """
        try:
            return await self.generator.generate(request)
        except (ToolError, BackendError) as fault:
            logger.warning("failover: a placeholder stands in for an image of %s: %s", self.name, fault)
            note = f"stands in for an image of {self.name}"
            image = await asyncio.to_thread(placeholder, self._size, request.prompt, note)
            return GeneratedImage(image, stand_in=str(fault))

    async def close(self) -> None:
        """Close the generator."""
        await self.generator.close()


def placeholder(size: tuple[int, int], prompt: str, note: str) -> Image.Image:
    """Draw an image that says that it is a placeholder, with as much of the prompt as fits.

    Args:
        size: width and height in pixels.
        prompt: of the image that is missing.
        note: the reason for the placeholder.
    """
    image = Image.new("RGB", size, (58, 60, 68))
    draw = ImageDraw.Draw(image)
    letter = max(8, min(size) // 26)
    title, body = ImageFont.load_default(size=letter * 1.5), ImageFont.load_default(size=letter)
    margin, columns = letter, max(8, int(size[0] / (letter * 0.62)) - 3)
    draw.rectangle((2, 2, size[0] - 3, size[1] - 3), outline=(255, 196, 0), width=max(1, letter // 6))
    draw.text((margin, margin), "MOCK IMAGE", fill=(255, 196, 0), font=title)
    lines = [f"no model made this: {note}", "", *textwrap.wrap(prompt, columns)]
    draw.multiline_text((margin, margin * 3), "\n".join(lines), fill=(235, 235, 235), font=body, spacing=letter // 3)
    return image
