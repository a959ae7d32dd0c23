"""Masks from SAM and SAM 2: outlines of detected objects, for detectors that know boxes only.

Kirillov et al., 2023 (https://arxiv.org/abs/2304.02643); Ravi et al., 2024 (https://arxiv.org/abs/2408.00714).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from PIL import Image

from agentfly.images import on_white
from agentfly.vision.base import Detection, Detections, Detector
from agentfly.vision.model_runtime import DType, ModelSettings, TransformersModel, memory_guard, shape_guard

Box = tuple[int, int, int, int]


class SamSettings(ModelSettings):
    """The checkpoint and its device; `facebook/sam2.1-hiera-small` is a SAM 2."""

    model: str = "facebook/sam-vit-base"
    dtype: DType = "float32"


class SamSegmenter(TransformersModel[SamSettings]):
    """Outlines the object in a box. The model is loaded at the first call, or by `load`."""

    feature: ClassVar[str] = "the SAM segmenter"
    wanted: ClassVar[str] = "a SAM or SAM 2 model of transformers"
    classes: ClassVar[Mapping[str, tuple[str, str]]] = {
        "sam": ("SamModel", "SamProcessor"),
        "sam2": ("Sam2Model", "Sam2Processor"),
        # The published SAM 2 checkpoints hold the video model; this is its image half.
        "sam2_video": ("Sam2Model", "Sam2Processor"),
    }

    def __init__(self, settings: SamSettings | None = None) -> None:
        super().__init__(settings or SamSettings())

    async def segment(self, image: Image.Image, boxes: Sequence[Box]) -> list[Image.Image]:
        """Return a mask (mode L, the image's size, 0 or 255) for each box, in their order.

        Args:
            image: any image.
            boxes: in pixels, end exclusive.

        Raises:
            ToolError: memory ran out.
            ConfigError: the checkpoint cannot be loaded.
        """
        return await self._worker.run(self._segment, image, list(boxes)) if boxes else []

    def _segment(self, image: Image.Image, boxes: list[Box]) -> list[Image.Image]:
        import torch

        model, processor = self.load()
        with shape_guard(self.name, image), memory_guard(self.name), torch.inference_mode():
            inputs = processor(
                images=on_white(image), input_boxes=[[list(map(float, box)) for box in boxes]], return_tensors="pt"
            )
            sizes = [inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
            inputs = inputs.to(model.device)
            for name in ("pixel_values", "input_boxes"):
                inputs[name] = inputs[name].to(model.dtype)
            outputs = model(**inputs, multimask_output=False)
            # SAM pads the image and needs both sizes to undo that; SAM 2 stretches it.
            masks = processor.post_process_masks(outputs.pred_masks.float().cpu(), *sizes)[0]
        return [Image.fromarray(np.where(mask.numpy(), 255, 0).astype(np.uint8)) for mask in masks[:, 0]]


class SegmentedDetector:
    """A detector whose masks come from SAM instead of being its boxes.

    A mask is cut to its box; where SAM finds nothing in a box, the box stays the mask.
    """

    def __init__(self, detector: Detector, segmenter: SamSegmenter) -> None:
        self.detector = detector
        self.segmenter = segmenter
        self.name = f"{detector.name} + {segmenter.name}"

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Detections:
        """Return the objects that the detector finds, with masks of their outlines; see `Detector`."""
        found = await self.detector.detect(image, prompt, box_threshold=box_threshold, text_threshold=text_threshold)
        masks = await self.segmenter.segment(image, [detection.box for detection in found])
        best = found.best_rejected if isinstance(found, Detections) else None
        outlined = [
            await asyncio.to_thread(_outlined, detection, mask) for detection, mask in zip(found, masks, strict=True)
        ]
        return Detections(outlined, best_rejected=best)

    async def check_ready(self) -> None:
        """Check the detector, if it has a check; see `VlmDetector.check_ready`."""
        check = getattr(self.detector, "check_ready", None)
        if check is not None:
            await check()


def _outlined(detection: Detection, mask: Image.Image) -> Detection:
    inside = Image.new("L", mask.size, 0)
    inside.paste(mask.crop(detection.box), detection.box)
    return replace(detection, mask=inside) if inside.getbbox() else detection
