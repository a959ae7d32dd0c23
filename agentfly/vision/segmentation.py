"""Masks from SAM and SAM 2: the outline of what a detector found, where the detector knows its box only.

Kirillov et al., 2023 (https://arxiv.org/abs/2304.02643); Ravi et al., 2024 (https://arxiv.org/abs/2408.00714).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from agentfly.errors import ConfigError
from agentfly.vision.base import Detection, Detections, Detector
from agentfly.vision.runtime import (
    DType,
    Worker,
    check_folder,
    loading,
    memory_guard,
    require,
    resolve_device,
    resolve_dtype,
    short_name,
)
from agentfly.vision.settings import ModelSettings

Box = tuple[int, int, int, int]

_WANTED = "a SAM or SAM 2 model of transformers"
_CLASSES = {
    "sam": ("SamModel", "SamProcessor"),
    "sam2": ("Sam2Model", "Sam2Processor"),
    # The published SAM 2 checkpoints hold the video model, whose picture half this is.
    "sam2_video": ("Sam2Model", "Sam2Processor"),
}


class SamSettings(ModelSettings):
    """Which checkpoint, and where it runs; `facebook/sam2.1-hiera-small` is a SAM 2."""

    model: str = "facebook/sam-vit-base"
    dtype: DType = "float32"


class SamSegmenter:
    """Cuts out what is in a box. The model is loaded at the first call, or by `load`."""

    def __init__(self, settings: SamSettings | None = None) -> None:
        self.settings = settings or SamSettings()
        require("transformers", "the SAM segmenter", "diffusion")
        check_folder(self.settings.model, "config.json", _WANTED)
        self.name = short_name(self.settings.model)
        self._worker = Worker("sam")
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    async def segment(self, image: Image.Image, boxes: Sequence[Box]) -> list[Image.Image]:
        """A mask (mode L, the picture's size, 0 or 255) for each box, in their order.

        Raises:
            ToolError: memory ran out.
            ConfigError: the checkpoint cannot be loaded.
        """
        return await self._worker.run(self._segment, image, list(boxes)) if boxes else []

    def load(self) -> tuple[Any, Any]:
        """Model and processor; loads them at the first call. Takes seconds, so not for an event loop."""
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self.settings)
            return self._loaded

    def _segment(self, image: Image.Image, boxes: list[Box]) -> list[Image.Image]:
        import torch

        model, processor = self.load()
        with memory_guard(self.name), torch.inference_mode():
            inputs = processor(
                images=image.convert("RGB"), input_boxes=[[list(map(float, box)) for box in boxes]], return_tensors="pt"
            )
            sizes = [inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
            inputs = inputs.to(model.device)
            for name in ("pixel_values", "input_boxes"):
                inputs[name] = inputs[name].to(model.dtype)
            outputs = model(**inputs, multimask_output=False)
            # SAM pads the picture and needs to know by how much; SAM 2 stretches it.
            masks = processor.post_process_masks(outputs.pred_masks.float().cpu(), *sizes)[0]
        return [Image.fromarray(np.where(mask.numpy(), 255, 0).astype(np.uint8)) for mask in masks[:, 0]]


def _load(settings: SamSettings) -> tuple[Any, Any]:
    import transformers

    device = resolve_device(settings.device)
    with loading(settings.model, _WANTED):
        config = transformers.AutoConfig.from_pretrained(settings.model, revision=settings.revision)
        if config.model_type not in _CLASSES:
            raise ConfigError(
                f"{settings.model!r} is a {config.model_type} model: give {_WANTED}, such as facebook/sam-vit-base"
            )
        model_class, processor_class = (getattr(transformers, name) for name in _CLASSES[config.model_type])
        processor = processor_class.from_pretrained(settings.model, revision=settings.revision)
        model = model_class.from_pretrained(
            settings.model, revision=settings.revision, dtype=resolve_dtype(settings.dtype, device)
        )
    return model.to(device).eval(), processor


class SegmentedDetector:
    """A detector whose masks come from SAM instead of being its boxes.

    A mask is kept inside its box; where SAM sees nothing in a box, the box stays the mask.
    """

    def __init__(self, detector: Detector, segmenter: SamSegmenter) -> None:
        self.detector = detector
        self.segmenter = segmenter
        self.name = f"{detector.name} + {segmenter.name}"

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Detections:
        """What the detector finds, with masks of the objects' outlines."""
        found = await self.detector.detect(image, prompt, box_threshold=box_threshold, text_threshold=text_threshold)
        masks = await self.segmenter.segment(image, [detection.box for detection in found])
        return await asyncio.to_thread(_with_masks, found, masks)


def _with_masks(found: Sequence[Detection], masks: Sequence[Image.Image]) -> Detections:
    best = found.best_rejected if isinstance(found, Detections) else None
    outlined = [_outlined(detection, mask) for detection, mask in zip(found, masks, strict=True)]
    return Detections(outlined, best_rejected=best)


def _outlined(detection: Detection, mask: Image.Image) -> Detection:
    inside = Image.new("L", mask.size, 0)
    inside.paste(mask.crop(detection.box), detection.box)
    return replace(detection, mask=inside) if inside.getbbox() else detection
