"""Pictures from text by any diffusers pipeline: one hot pipeline, and clients that fan out share its batches.

Requests with equal settings that come within a few milliseconds are one batch. Every request has a random generator of
its own, on the CPU, so that its picture depends on its seed and not on its company or its device.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from agentfly.errors import ToolError
from agentfly.serving.image_server.work import Operation, Outcome, Work
from agentfly.vision.diffusion.batching import Abandoned, Batcher, Stopped
from agentfly.vision.diffusion.pipelines import Weights
from agentfly.vision.diffusion.settings import WeightSettings
from agentfly.vision.runtime import memory_guard

_WINDOW = 0.005
_SETTINGS = ("negative_prompt", "guidance_scale", "true_cfg_scale", "num_inference_steps", "width", "height")


class TextToImage:
    """A text-to-image pipeline as an engine.

    Args:
        settings: of its weights, which are loaded here.
        max_batch: pictures made at once.

    Raises:
        ConfigError: the checkpoint starts from something else than text, or cannot be loaded.
        MissingExtraError: diffusers is not installed.
    """

    operations = frozenset((Operation.generate,))

    def __init__(self, settings: WeightSettings, *, max_batch: int = 4) -> None:
        self._weights = Weights(settings)
        self.name = self._weights.name
        self._accepted = set(inspect.signature(self._weights.template("generate").__call__).parameters)
        self._batcher: Batcher[Work, Image.Image] = Batcher(self._make, max_batch=max_batch, window=_WINDOW)

    async def run(self, work: Work) -> Outcome:
        """The picture of a prompt.

        Raises:
            ToolError: the pipeline does not know a setting, or memory ran out.
        """
        unknown = [name for name in _SETTINGS if getattr(work, name) is not None and name not in self._accepted]
        if unknown:
            raise ToolError(f"this model has no {', '.join(unknown)}: leave it out")
        # Works that differ in nothing but these can be one batch.
        return Outcome(await self._batcher.submit(replace(work, prompt="", seed=None), work))

    def _make(self, works: Sequence[Work], abandoned: Abandoned) -> Sequence[Image.Image]:
        import torch

        def stop_when_abandoned(_: Any, __: int, ___: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            if abandoned():
                raise Stopped
            return kwargs

        call: dict[str, Any] = {
            name: getattr(works[0], name) for name in _SETTINGS if getattr(works[0], name) is not None
        }
        if "negative_prompt" in call:
            call["negative_prompt"] = [call["negative_prompt"]] * len(works)
        if "callback_on_step_end" in self._accepted:
            call["callback_on_step_end"] = stop_when_abandoned
        call["generator"] = [torch.Generator("cpu").manual_seed(work.seed or 0) for work in works]
        with memory_guard(self.name), self._weights.fresh("generate") as pipeline, torch.inference_mode():
            images: list[Image.Image] = pipeline(prompt=[work.prompt for work in works], **call).images
        return images
