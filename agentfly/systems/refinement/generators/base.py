"""The contract of every generator: it takes a prompt and the images to start from, and returns an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from agentfly.systems.refinement.usage import Usage


@dataclass(frozen=True)
class GeneratedImage:
    """An image that was made.

    Attributes:
        image: decoded.
        encoded: the file as it was received; None where the image was made here.
        context: what continues from it on the generator's side: the response id at OpenAI, else None.
        usage: what it took.
    """

    image: Image.Image
    encoded: bytes | None = None
    context: str | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class ImageRequest:
    """What to make.

    Attributes:
        prompt: in words.
        number: of the iteration, from 1.
        references: images of the user, for the first image only: later ones go on from `previous`.
        previous: the last image that was made; None before the first.
    """

    prompt: str
    number: int = 1
    references: tuple[Image.Image, ...] = ()
    previous: GeneratedImage | None = None


class Generator(Protocol):
    """Makes images. One generator serves many loops at once."""

    @property
    def name(self) -> str:
        """Who makes the images, for the results."""
        ...

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """The image of a request.

        Raises:
            ToolError: the request is refused; `EngineUnavailable`: this generator cannot do such a thing at all.
            BackendError: the service behind it did not answer.
            ConfigError: it is set up wrongly, and no further request would fare better.
        """
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...
