"""The contract of every image generator: it takes a prompt and the images to start from, and returns an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from agentfly.systems.generators.usage import Usage


@dataclass(frozen=True)
class GeneratedImage:
    """An image that was made.

    Attributes:
        image: the decoded image.
        encoded: the file as it was received; None for an image that was made in this process.
        context: id with which the generator goes on from this image: the response id at OpenAI, else None.
        usage: requests and tokens that it took.
        stand_in: the reason that this is only a placeholder for an image that could not be made; None for an image
            that was made as asked.
    """

    image: Image.Image
    encoded: bytes | None = None
    context: str | None = None
    usage: Usage = field(default_factory=Usage)
    stand_in: str | None = None


@dataclass(frozen=True)
class ImageRequest:
    """An order for one image.

    Attributes:
        prompt: description of the image, or instruction for an editor.
        number: of the image in its series, from 1.
        references: images of the user, for the first image only: later ones go on from `previous`.
        previous: the last image of the series; None before the first.
        negative_prompt: what to avoid; "" for nothing. Generators that have no such setting ignore it.
        seed: of this image; None leaves it to the generator.
    """

    prompt: str
    number: int = 1
    references: tuple[Image.Image, ...] = ()
    previous: GeneratedImage | None = None
    negative_prompt: str = ""
    seed: int | None = None

    @property
    def starts(self) -> tuple[Image.Image, ...]:
        """The images to start from: the previous one, else the references."""
        return self.references if self.previous is None else (self.previous.image,)

    def seed_or_next(self, first: int | None) -> int | None:
        """Return this image's seed: the request's own, else that of the first image of a series, counted up."""
        return first + self.number - 1 if self.seed is None and first is not None else self.seed


class ImageGenerator(Protocol):
    """A maker of images. One generator serves many runs at once."""

    @property
    def name(self) -> str:
        """The engine, for results and messages."""
        ...

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make an image.

        Raises:
            ToolError: the request is refused; `EngineUnavailable` where this generator cannot do such a thing at all.
            BackendError: the service behind it did not answer.
            ConfigError: it is set up wrongly, and every further request would fail too.
        """
        ...

    async def close(self) -> None:
        """Free connections and models."""
        ...
