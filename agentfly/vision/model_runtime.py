"""Run the model of an engine: off the event loop, on the chosen device, with errors that name the remedy."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, ParamSpec, TypeVar

from agentfly.errors import AgentFlyError, ConfigError, NoGpuError, ToolError, first_line, require
from agentfly.model_source import check_folder, find_model, is_local
from agentfly.settings import Settings

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="ModelSettings")
_NARROW = 8  # times that one side is as long as the other
DType = Literal["auto", "float32", "bfloat16", "float16"]


class ModelSettings(Settings):
    """The checkpoint of an engine, and the device that it runs on.

    Attributes:
        model: folder, or id on the hub.
        revision: commit or tag on the hub.
        device: "auto" (the first GPU, or the CPU), "cpu", "cuda", "cuda:1", ...
        dtype: of the weights; "auto" is bfloat16 on a GPU and float32 elsewhere.
    """

    model: str
    revision: str | None = None
    device: str = "auto"
    dtype: DType = "auto"


class OutOfMemory(ToolError):
    """The model did not fit into memory with this request."""


class Worker:
    """One thread for one model: its calls never overlap and never run on the event loop.

    A call that is cancelled while it waits for its turn does not run at all.
    """

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work` in the worker's thread and return its result."""
        return await asyncio.wrap_future(self._threads.submit(work, *args, **kwargs))

    def close(self) -> None:
        """Drop the calls that wait; the running one ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class LazyModel(ABC, Generic[T]):
    """A model that is loaded once, when it is first needed, and works in one thread of its own.

    Args:
        name: of the engine.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._worker = Worker(name)
        self._lock = threading.Lock()
        self._loaded: T | None = None

    def load(self) -> T:
        """Return the parts of the model, which the first call loads. Takes seconds, so not for an event loop.

        Raises:
            ConfigError: the checkpoint cannot be loaded.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def close(self) -> None:
        """Drop the calls that wait; the running one ends by itself."""
        self._worker.close()

    @abstractmethod
    def _load(self) -> T: ...


class TransformersModel(LazyModel[tuple["PreTrainedModel", "ProcessorMixin"]], Generic[S]):
    """A model of transformers and its processor.

    Attributes:
        feature: name of the engine that needs it, for messages.
        wanted: description of the models that it can be, for messages.
        classes: names of the classes of model and processor, by `model_type` of the checkpoint.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        ConfigError: the folder is not a checkpoint.
    """

    feature: ClassVar[str]
    wanted: ClassVar[str]
    classes: ClassVar[Mapping[str, tuple[str, str]]]

    def __init__(self, settings: S) -> None:
        require("transformers", self.feature, "diffusion")
        check_folder(settings.model, "config.json", self.wanted)
        super().__init__(short_name(settings.model))
        self.settings = settings

    def _load(self) -> tuple[PreTrainedModel, ProcessorMixin]:
        import transformers

        chosen, device = self.settings, resolve_device(self.settings.device)
        source = find_model(chosen.model, wanted=self.wanted, revision=chosen.revision)
        with loading(chosen.model, self.wanted):
            kind = transformers.AutoConfig.from_pretrained(source, revision=chosen.revision).model_type
            if kind not in self.classes:
                usual = type(chosen).model_fields["model"].default
                raise ConfigError(f"{chosen.model!r} is a {kind} model: give {self.wanted}, such as {usual}")
            model_class, processor_class = (getattr(transformers, name) for name in self.classes[kind])
            processor = processor_class.from_pretrained(source, revision=chosen.revision)
            model = model_class.from_pretrained(
                source, revision=chosen.revision, dtype=resolve_dtype(chosen.dtype, device)
            )
        return model.to(device).eval(), processor


def resolve_device(device: str) -> str:
    """Return the name of a device; "auto" is the first GPU, or the CPU where there is none.

    Raises:
        NoGpuError: a GPU is asked for and there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if available else "cpu"
    if device.startswith("cuda") and not available:
        raise NoGpuError(f"device {device!r}: torch sees no GPU here; use device='cpu' or 'auto'")
    return device


def resolve_dtype(dtype: DType, device: str) -> torch.dtype:
    """Return the torch dtype.

    Args:
        dtype: its name; "auto" is bfloat16 on a GPU and float32 elsewhere.
        device: as `resolve_device` returns it.
    """
    import torch

    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return getattr(torch, dtype)


def short_name(model: str) -> str:
    """Return the name of an engine by its model: the id of a repository, or the last part of a path."""
    return Path(model).expanduser().name if is_local(model) else model


@contextmanager
def loading(model: str, wanted: str) -> Iterator[None]:
    """Turn errors of loading a checkpoint into `ConfigError`.

    Args:
        model: folder or id of the checkpoint.
        wanted: description of the models that it can be.

    Raises:
        ConfigError: the checkpoint cannot be loaded.
    """
    try:
        yield
    except (OSError, KeyError, ValueError) as fault:
        if isinstance(fault, ConfigError):
            raise
        raise ConfigError(f"cannot load {model!r} as {wanted}: {first_line(fault)}") from fault


@contextmanager
def shape_guard(engine: str, *images: Image.Image) -> Iterator[None]:
    """Turn what libraries raise on a narrow image into a `ToolError`; on any other shape it is a bug and stays one.

    Processors scale the shorter side to nothing or refuse the image, and a detector finds fewer places than it asks
    for. Their limits differ.

    Args:
        engine: its name.
        images: that the model works on.

    Raises:
        ToolError: an image is narrow, and the model failed.
    """
    try:
        yield
    except (ValueError, RuntimeError, IndexError, ZeroDivisionError) as fault:
        narrow = next((image for image in images if max(image.size) >= _NARROW * min(image.size)), None)
        if isinstance(fault, AgentFlyError) or narrow is None:
            raise
        raise ToolError(
            f"{engine} cannot work on an image of {narrow.width}x{narrow.height} pixels: it is too narrow; crop it, or "
            "give it a border"
        ) from fault


@contextmanager
def memory_guard(engine: str) -> Iterator[None]:
    """Turn exhausted memory into `OutOfMemory`, and free the memory of the failed call.

    Raises:
        OutOfMemory: the model did not fit into memory with this request.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as fault:
        # The CPU allocator and cuBLAS have no error class of their own.
        words = ("not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
        typed = isinstance(fault, (torch.OutOfMemoryError, MemoryError))
        if not typed and not any(word in str(fault) for word in words):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory(
            f"{engine} ran out of memory on this image: try a smaller image, or do without this tool"
        ) from fault
