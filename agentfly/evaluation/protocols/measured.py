"""The evaluator of a protocol that measures: distances of pixels, and cosines of the embeddings of CLIP and DINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.errors import ConfigError, EvaluatorError, ToolError, unknown_name
from agentfly.evaluation.protocols.base import MeasuredProtocol
from agentfly.evaluation.protocols.registry import find_protocol
from agentfly.evaluators import EditSample, Score
from agentfly.evaluators.measured.similarity import EmbeddingSpace, SimilaritySettings
from agentfly.images import on_white
from agentfly.vision.model_runtime import ModelSettings, TransformersModel, Worker, memory_guard

if TYPE_CHECKING:
    import torch

# Steps shorter than this, between vectors of length 1, have no direction.
_NO_STEP = 1e-6
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class DinoSettings(ModelSettings):
    """The checkpoint of DINO."""

    model: str = "facebook/dino-vits16"


class DinoSpace(TransformersModel[DinoSettings]):
    """Embedding of images by the first token of a vision transformer.

    Images are prepared as in MagicBrush's script: the shorter side at 256 for a model of 224 (bicubic), the middle
    square cut out, colours normalised as for ImageNet.
    """

    feature: ClassVar[str] = "a benchmark protocol"
    wanted: ClassVar[str] = "a DINO model"
    classes: ClassVar[Mapping[str, tuple[str, str]]] = dict.fromkeys(
        ("vit", "dinov2"), ("AutoModel", "AutoImageProcessor")
    )

    def see(self, images: Sequence[Image.Image]) -> NDArray[np.float64]:
        """Return embeddings of images (N, D), each of length 1."""
        import torch

        model, _ = self.load()
        side = int(model.config.image_size)
        pixels = torch.stack([_prepared(image, side) for image in images])
        with memory_guard(self.name), torch.inference_mode():
            tokens = model(pixel_values=pixels.to(model.device, model.dtype)).last_hidden_state
        found = tokens[:, 0].double().cpu().numpy()
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def _prepared(image: Image.Image, side: int) -> torch.Tensor:
    import torch

    image = on_white(image)
    shorter = round(side * 256 / 224)
    # As torchvision's Resize, the length of the longer side is cut to whole pixels, not rounded.
    width, height = (shorter * length // min(image.size) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    square = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255.0
    normalised = (square - np.asarray(_MEAN, np.float32)) / np.asarray(_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)))


class _Sample:
    """One sample, whose embeddings are computed once."""

    def __init__(self, sample: EditSample, result: Image.Image, other: Image.Image, spaces: Mapping[str, Any]) -> None:
        self.result, self.other, self._spaces = on_white(result), on_white(other), spaces
        self.captions = [sample.metadata.get(f"{side}_caption") for side in ("source", "target")]
        self._seen: dict[str, NDArray[np.float64]] = {}
        self._read: NDArray[np.float64] | None = None

    def pixels(self) -> NDArray[np.float64]:
        """Return the differences of RGB from 0 to 1, the result in the size of the other image."""
        result = self.result.resize(self.other.size)
        return np.asarray(result, np.float64) / 255.0 - np.asarray(self.other, np.float64) / 255.0

    def seen(self, space: str) -> NDArray[np.float64]:
        """Return the embeddings of the result and of the other image (2, D)."""
        if space not in self._seen:
            self._seen[space] = self._spaces[space].see([self.result, self.other])
        return self._seen[space]

    def read(self) -> NDArray[np.float64]:
        """Return the embeddings of the captions of source and target (2, D); an absent one is an empty text."""
        if self._read is None:
            words = [text if isinstance(text, str) else "" for text in self.captions]
            self._read = self._spaces["clip"].read((words[0], words[1]))
        return self._read


def _between(space: str) -> Callable[[_Sample], float | None]:
    return lambda sample: float(sample.seen(space)[0] @ sample.seen(space)[1])


def _with_caption(sample: _Sample) -> float | None:
    return float(sample.seen("clip")[0] @ sample.read()[1]) if sample.captions[1] else None


def _direction(sample: _Sample) -> float | None:
    if not all(sample.captions):
        return None
    (result, source), (before, after) = sample.seen("clip"), sample.read()
    step, wish = result - source, after - before
    # Some rows of the Emu Edit test set have two equal captions.
    if np.linalg.norm(wish) < _NO_STEP:
        return None
    return float(step @ wish / np.linalg.norm(step) / np.linalg.norm(wish)) if np.linalg.norm(step) > _NO_STEP else 0.0


# Metric -> the model that it needs, and its function. None stands for a sample without a caption.
METRICS: Mapping[str, tuple[str | None, Callable[[_Sample], float | None]]] = {
    "l1": (None, lambda sample: float(np.abs(sample.pixels()).mean())),
    "l2": (None, lambda sample: float((sample.pixels() ** 2).mean())),
    "clip-i": ("clip", _between("clip")),
    "clip-img": ("clip", _between("clip")),
    "clip-t": ("clip", _with_caption),
    "clip-out": ("clip", _with_caption),
    "clip-dir": ("clip", _direction),
    "dino": ("dino", _between("dino")),
}
_DISTANCES = frozenset(("l1", "l2"))


class ProtocolMeasures:
    """Scores by the metrics of a protocol.

    The aspects are the metrics. The value is that of the first metric that the sample has, times 100 and at least 0; a
    distance d counts as 1 - d.

    Args:
        protocol: name of the protocol.
        metrics: some of its metrics; all by default. L1 and L2 need no model.
        clip, dino: folders or hub names of the models; by default those of the protocol.
        device: of the models.

    Raises:
        ConfigError: the protocol or a metric is unknown, or a folder is not a checkpoint.
        MissingExtraError: torch or transformers is not installed, and a metric needs them.
    """

    def __init__(
        self,
        protocol: str,
        metrics: Sequence[str] | None = None,
        clip: str | None = None,
        dino: str | None = None,
        device: str = "auto",
    ) -> None:
        found = find_protocol(protocol)
        if not isinstance(found, MeasuredProtocol):
            raise ConfigError(f"{protocol} is judged, not measured")
        self.protocol = found
        for name in metrics or ():
            if name not in found.metrics:
                raise ConfigError(unknown_name(f"metric of {protocol}", name, found.metrics))
        self.metrics = tuple(metrics or found.metrics)
        needed = {METRICS[name][0] for name in self.metrics}
        models = {**found.models, **{role: path for role, path in (("clip", clip), ("dino", dino)) if path is not None}}
        self._spaces: dict[str, Any] = {}
        if "clip" in needed:
            self._spaces["clip"] = EmbeddingSpace(SimilaritySettings(model=models["clip"], device=device))
        if "dino" in needed:
            self._spaces["dino"] = DinoSpace(DinoSettings(model=models["dino"], device=device))
        self._worker = Worker("protocol")

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample.

        Raises:
            EvaluatorError: there is no result, no image to compare it with, or no metric for this sample.
            ConfigError: a checkpoint cannot be loaded.
        """
        other = self._other(sample)
        if sample.result is None:
            raise EvaluatorError("there is no result to measure")
        try:
            return await self._worker.run(self._score, _Sample(sample, sample.result, other, self._spaces))
        except ToolError as fault:
            raise EvaluatorError(str(fault)) from fault

    async def check_sample(self, sample: EditSample) -> None:
        """Look for the image to compare with; see `NeedsOfSamples.check_sample`."""
        self._other(sample)

    async def close(self) -> None:
        """Drop the samples that are waiting."""
        self._worker.close()

    def _other(self, sample: EditSample) -> Image.Image:
        other = sample.target if self.protocol.against == "target" else sample.source
        if other is None:
            raise EvaluatorError(f"the protocol {self.protocol.name} compares with a target, and the task has none")
        return other

    def _score(self, sample: _Sample) -> Score:
        values = {name: METRICS[name][1](sample) for name in self.metrics}
        aspects = {name: value for name, value in values.items() if value is not None}
        if not aspects:
            raise EvaluatorError("the task has no caption, which its metrics need")
        first, value = next(iter(aspects.items()))
        share = 1.0 - value if first in _DISTANCES else value
        return Score(100.0 * min(max(share, 0.0), 1.0), aspects=aspects)
