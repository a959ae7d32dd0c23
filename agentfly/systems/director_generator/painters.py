"""Make an image from a generator's prompt: placeholders, servers, SDXL in this process, or an image editor.

A placeholder has a label that says it is one. It takes the place of an image that could not be made only if
`failover_mode` asks for it, and the result counts it.
"""

from __future__ import annotations

import asyncio
import logging
import textwrap
from dataclasses import dataclass
from typing import Protocol

from PIL import Image, ImageDraw, ImageFont

from agentfly.errors import ToolError
from agentfly.systems.director_generator.settings import Keys, SdxlSettings
from agentfly.vision.base import Editor, EditParams

logger = logging.getLogger(__name__)

TEXT_TO_IMAGE = (
    "a text-to-image model (SDXL), which sees nothing but one prompt and knows nothing of earlier images or of this "
    "conversation; it reads about 60 words, the first ones best"
)
IMAGE_EDITOR = (
    "an image editor, which is given the first image that is shown and one instruction that says what to change in it"
)


@dataclass(frozen=True)
class ImagePrompt:
    """What a generator asks for."""

    prompt: str
    negative: str = ""


class Painter(Protocol):
    """Makes images."""

    @property
    def name(self) -> str:
        """Who makes them, for the result."""
        ...

    @property
    def medium(self) -> str:
        """What it is, in words for directors and generators."""
        ...

    async def paint(self, wanted: ImagePrompt, seed: int, source: Image.Image | None) -> Image.Image:
        """An image; `source` is the one to edit, for a painter that edits.

        Raises:
            ToolError: this image could not be made.
            ConfigError: no image can be made: a key, a model or an address is wrong.
        """
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...


class MockPainter:
    """Placeholders with the prompt written on them."""

    name = "mock"
    medium = TEXT_TO_IMAGE

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    async def paint(self, wanted: ImagePrompt, seed: int, source: Image.Image | None) -> Image.Image:
        """A placeholder; equal words and seeds give equal ones."""
        return await asyncio.to_thread(placeholder, self._size, wanted.prompt, f"seed {seed}")

    async def close(self) -> None:
        """Nothing is held."""


class EditingPainter:
    """An image editor as painter: the prompt is an instruction on the source image."""

    medium = IMAGE_EDITOR

    def __init__(self, editor: Editor) -> None:
        self._editor = editor

    @property
    def name(self) -> str:
        """The editor's."""
        return self._editor.name

    async def paint(self, wanted: ImagePrompt, seed: int, source: Image.Image | None) -> Image.Image:
        """The source, edited."""
        if source is None:
            raise ToolError("an image editor needs an image to edit, and the request has none")
        return await self._editor.edit(source, wanted.prompt, EditParams(wanted.negative or None, seed=seed))

    async def close(self) -> None:
        """The editor belongs to whoever gave it."""


@dataclass(frozen=True)
class Painted:
    """An image, who made it, and why it is only a stand-in, if it is one."""

    image: Image.Image
    engine: str
    fault: str | None = None


class Easel:
    """A painter, and what happens when it fails.

    Args:
        painter: makes the images.
        stand_in: size of the placeholder that takes the place of a failed image; None lets the failure through.
    """

    def __init__(self, painter: Painter, stand_in: tuple[int, int] | None = None) -> None:
        self.painter = painter
        self._stand_in = stand_in

    async def paint(self, wanted: ImagePrompt, seed: int, source: Image.Image | None = None) -> Painted:
        """An image, or its stand-in.

        Raises:
            ToolError: it could not be made, and nothing stands in.
            ConfigError: settings or keys are wrong; that is never papered over.
        """
        try:
            return Painted(await self.painter.paint(wanted, seed, source), self.painter.name)
        except ToolError as fault:
            if self._stand_in is None:
                raise
            logger.warning("failover: a placeholder stands in for an image of %s: %s", self.painter.name, fault)
            why = f"stands in for an image of {self.painter.name}"
            image = await asyncio.to_thread(placeholder, self._stand_in, wanted.prompt, why)
            return Painted(image, "mock", str(fault))


def make_easel(settings: SdxlSettings, keys: Keys) -> Easel:
    """The painter that the settings describe. Models are loaded at the first image, not here.

    Raises:
        ConfigError: Stability is asked and there is no key.
        MissingExtraError: "local" without diffusers.
    """
    stand_in = settings.sides if settings.failover_mode == "mock" else None
    return Easel(_painter(settings, keys), stand_in)


def _painter(settings: SdxlSettings, keys: Keys) -> Painter:
    if settings.mode == "mock":
        return MockPainter(settings.sides)
    if settings.mode == "local":
        from agentfly.systems.director_generator.local import LocalPainter

        return LocalPainter(settings)
    from agentfly.systems.director_generator.remote import ServerPainter, StabilityPainter

    return StabilityPainter(settings, keys) if settings.api_base is None else ServerPainter(settings, keys)


def placeholder(size: tuple[int, int], prompt: str, note: str) -> Image.Image:
    """An image that says that it is none, with the prompt in as many words as there is room for."""
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
