"""Open-vocabulary detection by transformers' GroundingDINO and MM-Grounding-DINO.

Boxes are scored per token of the prompt: a box passes with the best of its token scores (`box_threshold`), and its
label is made of the words that pass `text_threshold` (Liu et al., 2023, https://arxiv.org/abs/2303.05499).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from agentfly.images import on_white
from agentfly.vision.base import Detections
from agentfly.vision.detection.boxes import (
    MAX_TOKENS,
    Candidate,
    check_length,
    clean_label,
    normalise_prompt,
    to_detections,
)
from agentfly.vision.model_runtime import DType, ModelSettings, TransformersModel, memory_guard, shape_guard

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class GroundingDinoSettings(ModelSettings):
    """The checkpoint and its device; float32, since its deformable attention has no bfloat16 kernel."""

    model: str = "IDEA-Research/grounding-dino-base"
    dtype: DType = "float32"


class GroundingDinoDetector(TransformersModel[GroundingDinoSettings]):
    """Finds the objects that a text names. The model is loaded at the first call, or by `load`.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        ConfigError: the folder is not a checkpoint.
    """

    feature: ClassVar[str] = "the GroundingDINO detector"
    wanted: ClassVar[str] = "a GroundingDINO or MM-Grounding-DINO model of transformers"
    classes: ClassVar[Mapping[str, tuple[str, str]]] = dict.fromkeys(
        ("grounding-dino", "mm-grounding-dino"), ("AutoModelForZeroShotObjectDetection", "AutoProcessor")
    )

    def __init__(self, settings: GroundingDinoSettings | None = None) -> None:
        super().__init__(settings or GroundingDinoSettings())

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Detections:
        """Return the objects that match one of the prompt's phrases, best first; their masks are their boxes.

        Args:
            image: any image.
            prompt: phrases, separated by full stops or commas.
            box_threshold: least score of a box.
            text_threshold: least score of a word of its label.

        Raises:
            ToolError: the prompt is empty or too long, or memory ran out.
            ConfigError: the checkpoint cannot be loaded.
        """
        caption = normalise_prompt(prompt)
        return await self._worker.run(self._detect, image, caption, box_threshold, text_threshold)

    def _detect(self, image: Image.Image, caption: str, box_threshold: float, text_threshold: float) -> Detections:
        import torch

        model, processor = self.load()
        rgb = on_white(image)
        with shape_guard(self.name, image), memory_guard(self.name), torch.inference_mode():
            inputs = processor(images=rgb, text=caption, return_tensors="pt").to(model.device)
            check_length(inputs["input_ids"].shape[1], _text_limit(model.config))
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
            outputs = model(**inputs)
            result = processor.post_process_grounded_object_detection(
                outputs,
                inputs["input_ids"],
                threshold=box_threshold,
                text_threshold=text_threshold,
                target_sizes=[(rgb.height, rgb.width)],
            )[0]
            scores = outputs.logits.float().sigmoid().max(dim=-1).values[0]
        rejected = scores[scores <= box_threshold]
        # Without boxes, transformers still returns one empty label.
        triples = zip(result["text_labels"], result["scores"], result["boxes"], strict=False)
        candidates = [
            Candidate(clean_label(label, caption), float(score), tuple(box.tolist())) for label, score, box in triples
        ]
        best = round(float(rejected.max()), 4) if len(rejected) else None
        return to_detections(candidates, rgb.size, best_rejected=best)


def _text_limit(config: PreTrainedConfig) -> int:
    """Return the number of tokens that the text encoder of a checkpoint takes."""
    positions = getattr(config.text_config, "max_position_embeddings", MAX_TOKENS)
    return min(getattr(config, "max_text_len", MAX_TOKENS), positions)
