"""Open-vocabulary detection by transformers' GroundingDINO and MM-Grounding-DINO.

Boxes are scored per token of the prompt: a box passes with the best of its token scores (`box_threshold`), and its
label is made of the words that pass `text_threshold` (Liu et al., 2023, https://arxiv.org/abs/2303.05499).
"""

from __future__ import annotations

import threading
from typing import Any

from PIL import Image

from agentfly.errors import ConfigError
from agentfly.vision.base import Detections
from agentfly.vision.boxes import Candidate, clean_label, normalise_prompt, to_detections
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

MODEL_TYPES = ("grounding-dino", "mm-grounding-dino")
_WANTED = "a GroundingDINO or MM-Grounding-DINO model of transformers"


class GroundingDinoSettings(ModelSettings):
    """Which checkpoint, and where it runs; in float32, for its deformable attention has no bfloat16 kernel."""

    model: str = "IDEA-Research/grounding-dino-base"
    dtype: DType = "float32"


class GroundingDinoDetector:
    """Finds what a text names. The model is loaded at the first call, or by `load`.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        ConfigError: the folder is not a checkpoint.
    """

    def __init__(self, settings: GroundingDinoSettings | None = None) -> None:
        self.settings = settings or GroundingDinoSettings()
        require("transformers", "the GroundingDINO detector", "diffusion")
        check_folder(self.settings.model, "config.json", _WANTED)
        self.name = short_name(self.settings.model)
        self._worker = Worker("grounding-dino")
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Detections:
        """Objects that match one of the prompt's phrases, best first; their masks are their boxes.

        Args:
            image: any picture.
            prompt: phrases, separated by full stops or commas.
            box_threshold: least score of a box.
            text_threshold: least score of a word of its label.

        Raises:
            ToolError: the prompt is empty, or memory ran out.
            ConfigError: the checkpoint cannot be loaded.
        """
        caption = normalise_prompt(prompt)
        return await self._worker.run(self._detect, image, caption, box_threshold, text_threshold)

    def load(self) -> tuple[Any, Any]:
        """Model and processor; loads them at the first call. Takes seconds, so not for an event loop."""
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self.settings)
            return self._loaded

    def _detect(self, image: Image.Image, caption: str, box_threshold: float, text_threshold: float) -> Detections:
        import torch

        model, processor = self.load()
        picture = image.convert("RGB")
        with memory_guard(self.name), torch.inference_mode():
            inputs = processor(images=picture, text=caption, return_tensors="pt").to(model.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
            outputs = model(**inputs)
            result = processor.post_process_grounded_object_detection(
                outputs,
                inputs["input_ids"],
                threshold=box_threshold,
                text_threshold=text_threshold,
                target_sizes=[(picture.height, picture.width)],
            )[0]
            scores = outputs.logits.float().sigmoid().max(dim=-1).values[0]
        rejected = scores[scores <= box_threshold]
        # Where there are no boxes, transformers gives one empty label all the same.
        triples = zip(result["text_labels"], result["scores"], result["boxes"], strict=False)
        candidates = [
            Candidate(clean_label(label, caption), float(score), tuple(box.tolist())) for label, score, box in triples
        ]
        best = round(float(rejected.max()), 4) if len(rejected) else None
        return to_detections(candidates, picture.size, best_rejected=best)


def _load(settings: GroundingDinoSettings) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor

    device = resolve_device(settings.device)
    with loading(settings.model, _WANTED):
        config = AutoConfig.from_pretrained(settings.model, revision=settings.revision)
        if config.model_type not in MODEL_TYPES:
            raise ConfigError(
                f"{settings.model!r} is a {config.model_type} model: give {_WANTED}, "
                "such as IDEA-Research/grounding-dino-base"
            )
        processor = AutoProcessor.from_pretrained(settings.model, revision=settings.revision)
        model = AutoModelForZeroShotObjectDetection.from_pretrained(
            settings.model, revision=settings.revision, dtype=resolve_dtype(settings.dtype, device)
        )
    return model.to(device).eval(), processor
