"""Open-vocabulary detection by the package `groundingdino-py`, the authors' own code (extra [groundingdino]).

The package uses three methods of `BertModel` that transformers 5 no longer has, or has with another signature.
`bert_with_old_masks` supplies them on a subclass that only this package sees.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.errors import ConfigError, require
from agentfly.images import on_white
from agentfly.model_source import find_model, is_local
from agentfly.settings import Settings
from agentfly.vision.base import Detections
from agentfly.vision.detection.boxes import (
    MAX_TOKENS,
    Candidate,
    check_length,
    clean_label,
    normalise_prompt,
    to_detections,
)
from agentfly.vision.model_runtime import LazyModel, loading, memory_guard, resolve_device, shape_guard, short_name

if TYPE_CHECKING:
    import torch
    from transformers import BertModel

_WANTED = "a checkpoint of groundingdino-py"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GroundingDinoPySettings(Settings):
    """The checkpoint and its device.

    Attributes:
        model: path of a .pth file, or "owner/repository:file" on the hub.
        config: path of its configuration; None is the one of Swin-T that comes with the package.
        text_encoder: folder or id of the BERT; None is the configuration's (bert-base-uncased).
        device: "auto", "cpu", "cuda", ...
        shortest_edge, longest_edge: pixels that the image is resized to, as in training.
    """

    model: str = "ShilongLiu/GroundingDINO:groundingdino_swint_ogc.pth"
    config: str | None = None
    text_encoder: str | None = None
    device: str = "auto"
    shortest_edge: int = 800
    longest_edge: int = 1333


class GroundingDinoPyDetector(LazyModel["torch.nn.Module"]):
    """Finds the objects that a text names; the results of `GroundingDinoDetector`, by the original code.

    Raises:
        MissingExtraError: groundingdino-py is not installed.
        ConfigError: there is no such file.
    """

    def __init__(self, settings: GroundingDinoPySettings | None = None) -> None:
        self.settings = settings or GroundingDinoPySettings()
        require("groundingdino", "engine 'groundingdino-py'", "groundingdino")
        if is_local(self.settings.model) and not Path(self.settings.model).is_file():
            raise ConfigError(f"there is no file {self.settings.model!r}: give the .pth file of {_WANTED}")
        super().__init__(f"groundingdino-py {short_name(self.settings.model)}")

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Detections:
        """Return the objects that match one of the prompt's phrases, with their boxes as masks; see `Detector`.

        Raises:
            ToolError: the prompt is empty or too long, or memory ran out.
            ConfigError: the checkpoint cannot be loaded.
        """
        caption = normalise_prompt(prompt)
        return await self._worker.run(self._detect, image, caption, box_threshold, text_threshold)

    def _load(self) -> torch.nn.Module:
        import groundingdino
        import torch
        from groundingdino.models import build_model
        from groundingdino.util import get_tokenlizer
        from groundingdino.util.misc import clean_state_dict
        from groundingdino.util.slconfig import SLConfig

        settings = self.settings
        get_tokenlizer.BertModel = bert_with_old_masks()
        packaged = Path(groundingdino.__file__).parent / "config" / "GroundingDINO_SwinT_OGC.py"
        with loading(settings.model, _WANTED):
            arguments = SLConfig.fromfile(settings.config or str(packaged))
            arguments.device = resolve_device(settings.device)
            if settings.text_encoder is not None:
                arguments.text_encoder_type = settings.text_encoder
            model = build_model(arguments)
            # A .pth is a pickle: only tensors are read from it.
            weights = torch.load(_weights_file(settings.model), map_location="cpu", weights_only=True)
            model.load_state_dict(clean_state_dict(weights["model"]), strict=False)
        return model.to(arguments.device).eval()

    def _detect(self, image: Image.Image, caption: str, box_threshold: float, text_threshold: float) -> Detections:
        import torch
        from groundingdino.util.utils import get_phrases_from_posmap

        model = self.load()
        tokens = model.tokenizer(caption)
        check_length(len(tokens["input_ids"]), MAX_TOKENS)
        device = next(model.parameters()).device
        pixels = torch.from_numpy(_pixels(image, self.settings)).to(device)
        with shape_guard(self.name, image), memory_guard(self.name), torch.inference_mode():
            outputs = model(pixels[None], captions=[caption])
            scores = outputs["pred_logits"][0].float().sigmoid().cpu()
            boxes = outputs["pred_boxes"][0].float().cpu()
        best = scores.max(dim=1).values
        kept = best > box_threshold
        candidates = [
            Candidate(
                clean_label(get_phrases_from_posmap(row > text_threshold, tokens, model.tokenizer), caption),
                float(row.max()),
                # Boxes come as centre, width and height relative to the image.
                (
                    (x - width / 2) * image.width,
                    (y - height / 2) * image.height,
                    (x + width / 2) * image.width,
                    (y + height / 2) * image.height,
                ),
            )
            for row, (x, y, width, height) in zip(scores[kept], boxes[kept].tolist(), strict=True)
        ]
        rejected = best[~kept]
        return to_detections(
            candidates, image.size, best_rejected=round(float(rejected.max()), 4) if len(rejected) else None
        )


def _pixels(image: Image.Image, settings: GroundingDinoPySettings) -> NDArray[np.float32]:
    """Return normalised channels (3, H, W) at the size of the model's training."""
    scale = min(settings.shortest_edge / min(image.size), settings.longest_edge / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    values = np.asarray(on_white(image).resize(size, Image.Resampling.BILINEAR), np.float32) / 255.0
    normalised = (values - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _weights_file(model: str) -> str:
    if is_local(model):
        return model
    repository, colon, file = model.partition(":")
    if not colon:
        raise ConfigError(f"{model!r} is no file; on the hub, name repository and file: 'owner/repository:file.pth'")
    source = find_model(repository, file, _WANTED)
    if is_local(source):
        return str(Path(source) / file)
    from huggingface_hub import hf_hub_download

    return hf_hub_download(repository, file)


@cache
def bert_with_old_masks() -> type[BertModel]:
    """Return a `BertModel` class with the three mask methods of transformers 4 that groundingdino-py uses."""
    import torch
    from transformers import BertModel

    def inverted(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return 0 where attention may go, and the least number of the type where it may not."""
        return (1.0 - mask.to(dtype)) * torch.finfo(dtype).min

    class OldMaskBertModel(BertModel):
        def get_extended_attention_mask(
            self,
            attention_mask: torch.Tensor,
            input_shape: tuple[int, ...],
            device: torch.device | None = None,
            dtype: torch.dtype | None = None,
        ) -> torch.Tensor:
            wide = attention_mask[:, None] if attention_mask.dim() == 3 else attention_mask[:, None, None]
            return inverted(wide, dtype or self.dtype)

        def invert_attention_mask(self, encoder_attention_mask: torch.Tensor) -> torch.Tensor:
            return inverted(encoder_attention_mask[:, None, None], self.dtype)

        def get_head_mask(
            self, head_mask: torch.Tensor | None, num_hidden_layers: int, is_attention_chunked: bool = False
        ) -> list[None]:
            return [None] * num_hidden_layers

    return OldMaskBertModel
