"""The messages between the server and its workers: plain data, pickled in both directions by these two only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from PIL import Image

from agentfly.vision.base import Detection


class Operation(StrEnum):
    """Kind of work. `/v1/models` lists those that the engine offers."""

    edit = "edit"
    inpaint = "inpaint"
    detect = "detect"
    generate = "generate"


@dataclass(frozen=True)
class Work:
    """One call of an engine. None leaves a setting to the engine's own default.

    Attributes:
        images: images to work on, and for `edit` further ones that the prompt refers to; empty for `generate`.
        mask: mode L, white = change, of the size of the first image; only for `inpaint`.
        width, height: size of the result in pixels, for `generate`.
    """

    operation: Operation
    prompt: str
    images: tuple[Image.Image, ...] = ()
    mask: Image.Image | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    num_inference_steps: int | None = None
    strength: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    box_threshold: float = 0.35
    text_threshold: float = 0.25


@dataclass(frozen=True)
class Outcome:
    """Result of a `Work`: an image, or detections.

    Attributes:
        best_rejected: score of the best detection below the threshold; None where the engine does not know it.
    """

    image: Image.Image | None = None
    detections: tuple[Detection, ...] = ()
    best_rejected: float | None = None


class Fault(StrEnum):
    """Reason for which a worker has no outcome for a request."""

    refused = "refused"  # the engine cannot do what was asked; the message is for the client
    unavailable = "unavailable"  # the engine cannot do this kind of thing at all
    internal = "internal"  # a bug or a broken engine; the message stays in the log
    cancelled = "cancelled"  # the server asked for it


@dataclass(frozen=True)
class Memory:
    """Bytes of a GPU: reserved by the worker, the peak of its use, and the total of the device."""

    used: int
    peak: int
    total: int


@dataclass(frozen=True)
class Assign:
    """Server to worker: start a job."""

    job: int
    work: Work


@dataclass(frozen=True)
class Cancel:
    """Server to worker: stop a job, as nobody waits for it any more."""

    job: int


@dataclass(frozen=True)
class Stop:
    """Server to worker: end the process."""


@dataclass(frozen=True)
class Ready:
    """Worker to server: the engine is loaded. See `WorkerEngine` for its attributes."""

    engine: str
    operations: frozenset[Operation]
    memory: Memory | None = None
    max_images: int = 1


@dataclass(frozen=True)
class NotLoaded:
    """Worker to server: the engine cannot be loaded, with the reason."""

    message: str


@dataclass(frozen=True)
class Done:
    """Worker to server: the end of a job, also of a cancelled or failed one. Its slot is free."""

    job: int
    outcome: Outcome | None = None
    fault: Fault | None = None
    message: str = ""
    seconds: float = 0.0
    memory: Memory | None = None


ToWorker = Assign | Cancel | Stop
FromWorker = Ready | NotLoaded | Done
