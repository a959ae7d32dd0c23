"""The contracts of the engines behind the tools: detector, inpainter and editor.

Coordinates are pixels; a box is `(x0, y0, x1, y1)` with `x1`, `y1` exclusive. Masks are mode L, white = change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol, runtime_checkable

from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError

# Images of one editing call, whatever the engine.
MOST_IMAGES = 16


@dataclass(frozen=True)
class Detection:
    """One object found: its label (words of the prompt), score 0 to 1, box, and mask of the image's size."""

    label: str
    score: float
    box: tuple[int, int, int, int]
    mask: Image.Image


class Detections(list[Detection]):
    """The objects that a detector found, best first.

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


def given_params(params: InpaintParams | EditParams) -> dict[str, object]:
    """Return the settings of a call by name, without those that are left to the engine."""
    return {name: value for name, value in asdict(params).items() if value is not None}


class Detector(Protocol):
    """Finds the objects that a text names."""

    @property
    def name(self) -> str:
        """Name of the engine, which results carry."""
        ...

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Sequence[Detection]:
        """Return the objects that match, best first; empty when there are none.

        An engine that knows the scores of rejected candidates returns `Detections`.

        Args:
            image: any image.
            prompt: names of objects.
            box_threshold: least score of an object, 0 to 1.
            text_threshold: least score of a word of its label, 0 to 1.

        Raises:
            ToolError: the prompt cannot be understood; the message says what to try.
        """
        ...


class Inpainter(Protocol):
    """Repaints the masked part of an image. Pixels where the mask is 0 stay exactly as they are."""

    @property
    def name(self) -> str:
        """Name of the engine, which results carry."""
        ...

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        """Return the image with the masked part repainted as `prompt` says; an empty prompt removes what is there.

        Args:
            image: any image.
            mask: of the same size, white = change.
            prompt: what to paint.
            params: settings of the call.

        Raises:
            ToolError: the engine cannot do what the prompt asks.
        """
        ...


class Editor(Protocol):
    """Edits a whole image by instruction."""

    @property
    def name(self) -> str:
        """Name of the engine, which results carry."""
        ...

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        """Return the edited image, same size.

        Args:
            image: any image.
            instruction: what to change.
            params: settings of the call.

        Raises:
            ToolError: the engine cannot do what the instruction asks.
        """
        ...


@runtime_checkable
class MultiImageEditor(Protocol):
    """An editor that also takes several images: one to edit, and others for reference."""

    @property
    def max_images(self) -> int:
        """Images of a call at most; 1 where the model turned out to take no references."""
        ...

    async def edit_images(self, images: Sequence[Image.Image], instruction: str, params: EditParams) -> Image.Image:
        """Return the first image edited, same size; the others show what the instruction refers to.

        Args:
            images: at least two, of any sizes; their order matters ("the hat of image 2").
            instruction: what to change.
            params: settings of the call.

        Raises:
            ToolError: the engine cannot do what the instruction asks, or takes fewer images.
        """
        ...


def most_images(editor: object) -> int:
    """Return the images of an edit at most: 1 for an editor that takes no references, and without one."""
    return editor.max_images if isinstance(editor, MultiImageEditor) else 1


async def edit_images(
    editor: Editor, images: Sequence[Image.Image], instruction: str, params: EditParams
) -> Image.Image:
    """Return the first image edited by any editor, same size, with the other images as references.

    Args:
        editor: does the work; one image is an ordinary edit, which every editor does.
        images: at least one, of any sizes.
        instruction: what to change.
        params: settings of the call.

    Raises:
        EngineUnavailable: the editor takes one image.
        ToolError: it takes fewer images than these, or cannot do what the instruction asks.
    """
    if len(images) == 1:
        return await editor.edit(images[0], instruction, params)
    if not isinstance(editor, MultiImageEditor):
        raise takes_one_image(editor.name)
    check_images(editor.name, len(images), editor.max_images)
    return await editor.edit_images(images, instruction, params)


def takes_one_image(name: str) -> EngineUnavailable:
    """Return the error of an editor, given by its name, that takes no references."""
    return EngineUnavailable(
        f"needs an editor that takes several images, such as Qwen-Image-Edit-2509: {name} takes one; give one image, "
        "or paste a part of one image into another"
    )


def check_images(name: str, count: int, most: int) -> None:
    """Raise unless an editor takes so many images.

    Args:
        name: of the editor.
        count: images of the call.
        most: images that the editor takes.

    Raises:
        EngineUnavailable: there are several, and the editor takes one.
        ToolError: there are more than it takes.
    """
    if count > most == 1:
        raise takes_one_image(name)
    if count > most:
        raise ToolError(f"{name} takes {most} images at most, got {count}: leave some out")


@runtime_checkable
class ServiceEngine(Protocol):
    """An engine behind a service that asks for a key."""

    def check_key(self) -> None:
        """Raise `ConfigError` unless the key is there.

        Raises:
            ConfigError: there is none; the message names the environment variable.
        """
        ...


class Delegating(ABC):
    """An engine whose calls are done by other engines, which may change from call to call."""

    @abstractmethod
    async def maker(self, images: int = 1) -> str:
        """Return the names of the engines that do calls now, with their versions, as part of a cache key.

        Args:
            images: number of images of the call.

        Raises:
            ToolError: no engine answers.
        """


@dataclass(frozen=True)
class Engines:
    """The three engines that a set of image tools works with.

    Attributes:
        draws_boxes: a detection also shows the image with the boxes drawn on it, unless the classical engine made it,
            here or on an image server: the tiny policies of the sticker world would pay the tokens of an image that
            says no more than the mask.
    """

    detector: Detector
    inpainter: Inpainter
    editor: Editor
    draws_boxes: bool = field(default=False, kw_only=True)
