"""Directional similarity in the space of CLIP or SigLIP: the image's movement towards the words or the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from agentfly.errors import EvaluatorError, ToolError
from agentfly.evaluators.base import EditSample, Score
from agentfly.images import on_white
from agentfly.vision.model_runtime import ModelSettings, TransformersModel, Worker, memory_guard

if TYPE_CHECKING:
    import torch

# Steps shorter than this, between vectors of length 1, are rounding.
_NO_STEP = 1e-4


class SimilaritySettings(ModelSettings):
    """The model, and the scale of its cosines.

    Attributes:
        full_for_words: cosine of image step and caption step that counts as 1. Images and texts lie apart, so that
            good edits reach 0.1 to 0.4 (InstructPix2Pix, Brooks et al. 2023, figure 8); calibrate it for a model.
        full_for_target: cosine of image step and target step that counts as 1.
    """

    model: str = "openai/clip-vit-base-patch32"
    full_for_words: float = Field(0.3, gt=0, le=1)
    full_for_target: float = Field(0.9, gt=0, le=1)


class _Features(Protocol):
    """The embeddings in transformers' output."""

    pooler_output: torch.Tensor


class EmbeddingSpace(TransformersModel[SimilaritySettings]):
    """Common embedding space of images and texts, of a model that was trained on pairs of them."""

    feature: ClassVar[str] = "the similarity evaluator"
    wanted: ClassVar[str] = "a CLIP, SigLIP or SigLIP 2 model"
    classes: ClassVar[Mapping[str, tuple[str, str]]] = dict.fromkeys(
        ("clip", "siglip", "siglip2"), ("AutoModel", "AutoProcessor")
    )

    def see(self, images: list[Image.Image]) -> NDArray[np.float64]:
        """Return embeddings of images (N, D), each of length 1."""
        import torch

        model, processor = self.load()
        with memory_guard(self.name), torch.inference_mode():
            inputs = processor(images=[on_white(image) for image in images], return_tensors="pt")
            inputs = inputs.to(model.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
            return _unit(model.get_image_features(**inputs))

    def read(self, texts: tuple[str, str]) -> NDArray[np.float64]:
        """Return embeddings of texts (2, D), each of length 1."""
        import torch

        model, processor = self.load()
        # SigLIP was trained on padded texts and gives wrong embeddings without the padding.
        padding = True if model.config.model_type == "clip" else "max_length"
        with memory_guard(self.name), torch.inference_mode():
            inputs = processor(text=list(texts), return_tensors="pt", padding=padding, truncation=True)
            return _unit(model.get_text_features(**inputs.to(model.device)))


class DirectionalSimilarityEvaluator:
    """CLIP directional similarity (StyleGAN-NADA, Gal et al. 2022), for data with captions or a target.

    With E the embedding of an image or a text, of length 1, and [x] = min(max(x, 0), 1):

        step       = E(result) - E(source)
        wish       = E(metadata["target_caption"]) - E(metadata["source_caption"]), or, without captions,
                     E(target) - E(source)
        direction  = [cos(step, wish) / full]
        score      = 100 * direction

    A copy of the source has no step and is worth 0. Other changes of the image hardly show in the score. Aspect "kept",
    [cos(E(result), E(source))], is reported beside it and is no part of it.

    Args:
        settings: the model, which is loaded at the first sample, and its scale.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        ConfigError: the folder is not a checkpoint.
    """

    def __init__(self, settings: SimilaritySettings | None = None) -> None:
        self.settings = settings or SimilaritySettings()
        self.space = EmbeddingSpace(self.settings)
        self._worker = Worker("similarity")

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample; aspects are direction and kept.

        Raises:
            EvaluatorError: neither captions nor a target are known, or they say that nothing is to change.
            ConfigError: the checkpoint cannot be loaded.
        """
        captions = _required(sample)
        if sample.result is None:
            return Score(0.0, "There is no result.", {"direction": 0.0, "kept": 0.0})
        try:
            return await self._worker.run(self._score, sample, sample.result, captions)
        except ToolError as fault:
            raise EvaluatorError(str(fault)) from fault

    async def check_sample(self, sample: EditSample) -> None:
        """Look for captions or a target; see `NeedsOfSamples.check_sample`."""
        _required(sample)

    async def close(self) -> None:
        """Drop the samples that are waiting."""
        self._worker.close()

    def _score(self, sample: EditSample, result: Image.Image, captions: tuple[str, str] | None) -> Score:
        images = [sample.source, result]
        if captions is None and sample.target is not None:
            images.append(sample.target)
        seen = self.space.see(images)
        before, after = self.space.read(captions) if captions is not None else (seen[0], seen[2])
        full = self.settings.full_for_words if captions is not None else self.settings.full_for_target
        wish, step = after - before, seen[1] - seen[0]
        if np.linalg.norm(wish) < _NO_STEP:
            raise EvaluatorError("captions or target say that nothing is to change: there is no direction to judge")
        moved = bool(np.linalg.norm(step) >= _NO_STEP)
        cosine = float(step @ wish / (np.linalg.norm(step) * np.linalg.norm(wish))) if moved else 0.0
        direction = min(max(cosine / full, 0.0), 1.0)
        kept = min(max(float(seen[0] @ seen[1]), 0.0), 1.0)
        if not moved:
            feedback = "The image is unchanged."
        elif direction >= 0.8:
            feedback = "The image has changed the way that was asked for."
        else:
            feedback = f"The image has changed in another direction than asked ({direction:.0%} of a full match)."
        return Score(100.0 * direction, feedback, {"direction": direction, "kept": kept})


def _required(sample: EditSample) -> tuple[str, str] | None:
    """Return both captions, or None where the target takes their place.

    Raises:
        EvaluatorError: there is no target either.
    """
    before, after = (sample.metadata.get(name) for name in ("source_caption", "target_caption"))
    if isinstance(before, str) and isinstance(after, str) and before and after:
        return before, after
    if sample.target is None:
        raise EvaluatorError(
            'the similarity evaluator needs metadata["source_caption"] and ["target_caption"], or a target'
        )
    return None


def _unit(features: _Features) -> NDArray[np.float64]:
    pooled = features.pooler_output.double().cpu().numpy()
    return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
