"""A reward model behind the contract of evaluators: batches, one thread, and sleep, so that it can share a GPU.

An adapter of a model is one class, a `RewardModel`: it loads the weights and scores a batch. `editscore` and
`editreward` are adapters; a function that returns `LearnedEvaluator(MyModel(...))` makes an evaluator of any other.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from PIL import Image
from pydantic import Field

from agentfly.errors import ConfigError, EvaluatorError, ToolError
from agentfly.evaluators.base import EditSample, Score
from agentfly.evaluators.guarded import PassingFault
from agentfly.images import on_white
from agentfly.vision.diffusion.batching import Batcher
from agentfly.vision.model_runtime import ModelSettings, memory_guard, resolve_device, short_name

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class LearnedSettings(ModelSettings):
    """The checkpoint of a reward model, and how it shares its device.

    Attributes:
        batch_size: samples of a batch at most.
        batch_window: seconds for which a sample waits for others.
        sleep: where the weights are during sleep: "cpu" keeps them in the memory of the host, "drop" reads them from
            the disk again.
    """

    batch_size: int = Field(8, ge=1)
    batch_window: float = Field(0.02, ge=0)
    sleep: Literal["cpu", "drop"] = "cpu"


class RewardModel(ABC):
    """An adapter of a reward model. Its methods are called in one thread, never two at once.

    Args:
        settings: of the model.
    """

    def __init__(self, settings: LearnedSettings) -> None:
        self.settings = settings

    def check(self) -> None:  # noqa: B027  (optional)
        """Check without loading that the model could be loaded.

        Raises:
            ConfigError: it could not.
        """

    @abstractmethod
    def load(self, device: str) -> torch.nn.Module:
        """Return the model with its weights, on a device and ready to score.

        Args:
            device: such as "cpu" or "cuda".

        Raises:
            ConfigError: the checkpoint cannot be loaded.
        """

    @abstractmethod
    def score(self, model: torch.nn.Module, samples: Sequence[EditSample]) -> Sequence[Score | EvaluatorError]:
        """Score a batch: one score for each sample in order, or the reason why it has none.

        Args:
            model: as `load` returned it.
            samples: at least one; each has a result.
        """


class LearnedEvaluator:
    """Scores by a reward model. The weights are loaded for the first sample.

    Samples that come together share a batch. The numbers of a batch depend a little on what is in it, as padding
    changes the order of sums; the same batch always gives the same scores, after sleep and wake too.

    Args:
        model: the adapter.
    """

    def __init__(self, model: RewardModel) -> None:
        self.model = model
        self._loaded: torch.nn.Module | None = None
        self._asleep = False
        self._turn = threading.Lock()
        settings = model.settings
        self._batcher = Batcher[EditSample, Score | EvaluatorError](
            self._score, max_batch=settings.batch_size, window=settings.batch_window
        )

    @property
    def batch_size(self) -> int:
        """Samples of a batch at most; a server lets in twice as many, so that the next batch is ready."""
        return self.model.settings.batch_size

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample.

        Raises:
            PassingFault: the model sleeps.
            EvaluatorError: the model gave no score, or ran out of memory on this sample.
            ConfigError: the checkpoint cannot be loaded.
        """
        if sample.result is None:
            return Score(0.0, "There is no result.")
        self._refuse_asleep()
        try:
            found = await self._batcher.submit("", sample)
        except ToolError as fault:
            raise EvaluatorError(str(fault)) from fault
        if isinstance(found, EvaluatorError):
            raise found
        return found

    async def sleep(self) -> bool:
        """Free the memory of the device once the batch under way has ended; see `Sleeps`. Safe to call twice."""
        await asyncio.to_thread(self._sleep)
        return True

    async def wake(self) -> bool:
        """Bring the weights back; see `Sleeps`. Safe to call twice."""
        await asyncio.to_thread(self._wake)
        return True

    async def check_ready(self) -> None:
        """Check the checkpoint without loading it; see `AsksOthers`."""
        self.model.check()
        self._refuse_asleep()

    async def close(self) -> None:
        """Drop the samples that wait, and the weights."""
        self._batcher.close()
        await asyncio.to_thread(self._drop)

    def _refuse_asleep(self) -> None:
        if self._asleep:
            raise PassingFault(
                f"the reward model {short_name(self.model.settings.model)} sleeps: wake it first (POST /v1/wake of its "
                "server)"
            )

    def _score(self, samples: Sequence[EditSample], _: Callable[[], bool]) -> Sequence[Score | EvaluatorError]:
        with self._turn:
            # It may have been put to sleep while this batch waited for its turn.
            self._refuse_asleep()
            if self._loaded is None:
                self._loaded = self.model.load(self._device)
            with memory_guard(short_name(self.model.settings.model)):
                found = self.model.score(self._loaded, samples)
        if len(found) != len(samples):
            raise ConfigError(f"{type(self.model).__name__} returned {len(found)} scores for {len(samples)} samples")
        return found

    @property
    def _device(self) -> str:
        return resolve_device(self.model.settings.device)

    def _sleep(self) -> None:
        with self._turn:
            self._asleep = True
            if self._loaded is not None and self.model.settings.sleep == "cpu":
                self._loaded.to("cpu")
            else:
                self._loaded = None
            _free()

    def _wake(self) -> None:
        with self._turn:
            if self._loaded is not None:
                self._loaded.to(self._device)
            else:
                self._loaded = self.model.load(self._device)
            self._asleep = False

    def _drop(self) -> None:
        with self._turn:
            self._loaded = None
            _free()


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def paired(sample: EditSample, max_pixels: int) -> tuple[Image.Image, Image.Image]:
    """Return source and result on white and in the size of the source, scaled down where they are too large.

    Args:
        sample: with a result.
        max_pixels: of each image.
    """
    assert sample.result is not None
    source, result = on_white(sample.source), on_white(sample.result)
    scale = min(1.0, (max_pixels / (source.width * source.height)) ** 0.5)
    size = max(1, int(source.width * scale)), max(1, int(source.height * scale))
    fitted = (
        image if image.size == size else image.resize(size, Image.Resampling.BICUBIC) for image in (source, result)
    )
    before, after = fitted
    return before, after


def without_special_tokens(text: str) -> str:
    """Return an instruction that forges no turn and no image: a space after `<` takes the meaning of special tokens."""
    return text.replace("<|", "< |")
