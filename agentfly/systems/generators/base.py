"""The contract of every image generator: it takes a prompt and the images to start from, and returns an image.

`EditingGenerator` makes one of any editor of `agentfly.vision`: the prompt is an instruction on the image to start
from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.base import Editor, EditParams


@dataclass
class Usage:
    """An account of requests and tokens.

    Attributes:
        requests: requests sent, answered or not.
        input_tokens, output_tokens: as the server counts them.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: Usage) -> None:
        """Add another account to this one."""
        self.requests += other.requests
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens

    def to_dict(self, input_price: float | None, output_price: float | None) -> dict[str, int | float | None]:
        """Return the account for JSON, with its cost; the cost is None where a price is.

        Args:
            input_price, output_price: of a million tokens, in any currency.
        """
        cost = None
        if input_price is not None and output_price is not None:
            cost = round((self.input_tokens * input_price + self.output_tokens * output_price) / 1e6, 6)
        return {**vars(self), "cost": cost}


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


class EditingGenerator:
    """A generator that edits the first image to start from.

    Args:
        editor: carries out the instructions; `close` leaves it open, since others may use it.
    """

    def __init__(self, editor: Editor) -> None:
        self._editor = editor

    @property
    def name(self) -> str:
        """The name of the editor."""
        return self._editor.name

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """Edit an image; see `ImageGenerator`."""
        if not request.starts:
            raise ToolError("an image editor needs an image to edit, and the request has none")
        params = EditParams(request.negative_prompt or None, seed=request.seed)
        return GeneratedImage(await self._editor.edit(request.starts[0], request.prompt, params))

    async def close(self) -> None:
        """Do nothing: the editor belongs to the caller."""


def nobody_listens(fault: BaseException | None) -> bool:
    """Return whether no connection came about: the name has no address, or the address refuses or does not answer."""
    # By name: the SDK has an HTTP library of its own, with classes of the same names.
    return any(kind.__name__ in ("ConnectError", "ConnectTimeout") for kind in type(fault).__mro__)
