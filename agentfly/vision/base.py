"""The contracts of the engines behind the tools. Heavy engines (diffusion, detectors, servers) keep the same three.

Coordinates are pixels; a box is `(x0, y0, x1, y1)` with `x1`, `y1` exclusive. Masks are mode L, white = change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from PIL import Image


@dataclass(frozen=True)
class Detection:
    """One object found: its label (words of the prompt), score 0 to 1, box, and mask of the image's size."""

    label: str
    score: float
    box: tuple[int, int, int, int]
    mask: Image.Image


class Detections(list[Detection]):
    """What a detector found, best first.

    Attributes:
        best_rejected: the best score among candidates below `box_threshold`; None where there were none, or where the
            engine does not know.
    """

    def __init__(self, found: Iterable[Detection] = (), *, best_rejected: float | None = None) -> None:
        super().__init__(found)
        self.best_rejected = best_rejected


@dataclass(frozen=True)
class InpaintParams:
    """Settings of an inpainting call; None leaves a setting to the engine's own default."""

    negative_prompt: str | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    strength: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class EditParams:
    """Settings of an editing call; None leaves a setting to the engine's own default."""

    negative_prompt: str | None = None
    true_cfg_scale: float | None = None
    num_inference_steps: int | None = None
    seed: int | None = None


class Detector(Protocol):
    """Finds what a text names."""

    @property
    def name(self) -> str:
        """Who made it, for the results."""
        ...

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Sequence[Detection]:
        """Objects that match, best first; empty when there are none.

        An engine that knows the scores of what it left out returns `Detections`.

        Raises:
            ToolError: the prompt cannot be understood; the message says what to try.
        """
        ...


class Inpainter(Protocol):
    """Repaints what a mask covers. Pixels where the mask is 0 stay exactly as they are."""

    @property
    def name(self) -> str:
        """Who made it, for the results."""
        ...

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        """The image with the masked part repainted as `prompt` says; an empty prompt removes what is there.

        Raises:
            ToolError: the engine cannot do what the prompt asks.
        """
        ...


class Editor(Protocol):
    """Edits a whole image by instruction."""

    @property
    def name(self) -> str:
        """Who made it, for the results."""
        ...

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        """The edited image, same size.

        Raises:
            ToolError: the engine cannot do what the instruction asks.
        """
        ...


@runtime_checkable
class ServiceEngine(Protocol):
    """An engine behind a service that asks for a key."""

    def check_key(self) -> None:
        """Check that there is one.

        Raises:
            ConfigError: there is none; the message names the environment variable.
        """
        ...


class Delegating(ABC):
    """An engine whose calls are done by others, which may change: their `name` is known only when it is asked for."""

    @abstractmethod
    async def maker(self) -> str:
        """Who does calls now, with all that tells one state of them from another.

        Raises:
            ToolError: nobody answers.
        """


@dataclass(frozen=True)
class Engines:
    """The three engines that a set of image tools works with.

    Attributes:
        draws_boxes: a detection also shows the image with the boxes drawn on it, unless the classical engine made it,
            here or on an image server: the tiny policies of the sticker world would pay for the tokens of an image
            that the mask already tells.
    """

    detector: Detector
    inpainter: Inpainter
    editor: Editor
    draws_boxes: bool = field(default=False, kw_only=True)
