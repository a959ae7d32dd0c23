"""The models of `gpu.py`: the real shapes with random weights, and small ones of the same classes.

Sizes are those of the published configurations. The tokenizer of the policies is trained on the conversation that is
measured, so that nothing is downloaded and a chain has about as many tokens as with the real one; the embeddings keep
the real number of rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402

from agentfly.agents.image_editing import SYSTEM_PROMPT  # noqa: E402
from agentfly.images import ImageStore, ImageView  # noqa: E402
from agentfly.templates import load_template  # noqa: E402
from agentfly.tools import ImageTools, Toolset  # noqa: E402
from agentfly.training.quickstart.tiny_policy import train_tokenizer  # noqa: E402
from agentfly.vision.classical import classical_engines  # noqa: E402
from tests.tiny.tokenizers import bert_tokenizer  # noqa: E402

Settings = dict[str, Any]


def schemas() -> list[dict[str, Any]]:
    """Return the schemas of the default tools."""
    return Toolset.of(ImageTools(ImageView(ImageStore()), classical_engines())).schemas()


@cache
def tokenizer() -> Any:
    """Return the tokenizer of the policies and of the editor's text encoder."""
    template = load_template("qwen2.5-vl-system-tool")
    return train_tokenizer([SYSTEM_PROMPT, template, *map(json.dumps, schemas())] * 2, template)


@contextmanager
def built_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Make new modules on a device and of a type: random weights of 20 billion parameters then take seconds."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class PolicyShape:
    """A family of policies.

    Attributes:
        template: chat template of the codec.
        patch: side of a patch in pixels.
        config: makes the configuration, real or small.
    """

    template: str
    patch: int
    config: Callable[[bool], Any]

    def processor(self, tiny: bool) -> Any:
        """Return the processor, with images of 512 x 512 unchanged."""
        from transformers import Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

        return Qwen2_5_VLProcessor(
            image_processor=_image_processor(self.patch, tiny),
            tokenizer=tokenizer(),
            video_processor=Qwen2VLVideoProcessor(),
        )

    def model(self, device: str, dtype: torch.dtype, *, tiny: bool) -> Any:
        """Return a model with random weights on a device."""
        from transformers import AutoModelForImageTextToText

        with built_on(device, torch.float32):
            return AutoModelForImageTextToText.from_config(self.config(tiny), dtype=dtype, attn_implementation="sdpa")


def _image_processor(patch: int, tiny: bool) -> Any:
    from transformers import Qwen2VLImageProcessor

    return Qwen2VLImageProcessor(
        patch_size=patch, merge_size=2, min_pixels=56 * 56, max_pixels=(128 if tiny else 1024) ** 2
    )


def _ids() -> dict[str, int]:
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{name}_token_id": tokenizer().convert_tokens_to_ids(f"<|{word}|>") for name, word in names.items()}


def _qwen2_5_vl(text: Settings, vision: Settings) -> Any:
    from transformers import Qwen2_5_VLConfig

    half = text["hidden_size"] // text["num_attention_heads"] // 2
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6}
    config = {"rope_parameters": rope, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, **text}
    tied = bool(text.get("tie_word_embeddings", False))
    return Qwen2_5_VLConfig(text_config=config, vision_config=vision, tie_word_embeddings=tied, **_ids())


_SMALL_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 1200,
}
_VISION_2_5: Settings = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_SMALL_VISION: Settings = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}


def qwen2_5_vl_3b(tiny: bool) -> Any:
    """https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/config.json"""
    if tiny:
        return _qwen2_5_vl({**_SMALL_TEXT, "tie_word_embeddings": True}, {**_SMALL_VISION, "out_hidden_size": 64})
    text = {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
    return _qwen2_5_vl(text, {**_VISION_2_5, "out_hidden_size": 2048})


def qwen2_5_vl_7b(tiny: bool) -> Any:
    """The text encoder of Qwen-Image-Edit: https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct/blob/main/config.json"""
    if tiny:
        return _qwen2_5_vl(_SMALL_TEXT, {**_SMALL_VISION, "out_hidden_size": 64})
    text = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    }
    return _qwen2_5_vl(text, {**_VISION_2_5, "out_hidden_size": 3584})


def qwen3_5_4b(tiny: bool) -> Any:
    """Sizes of https://huggingface.co/Qwen/Qwen3.5-4B: a gated delta net in three of four layers."""
    from transformers import Qwen3_5Config

    rope = {"rope_type": "default", "mrope_section": [11, 11, 10], "rope_theta": 1e7, "partial_rotary_factor": 0.25}
    text: Settings = {
        "hidden_size": 2560,
        "intermediate_size": 9216,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 248320,
    }
    vision: Settings = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
    if tiny:
        text = {**_SMALL_TEXT, "layer_types": ["linear_attention", "full_attention"], "head_dim": 256}
        text |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        text |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
        vision = dict(_SMALL_VISION)
    text |= {"rope_parameters": rope, "tie_word_embeddings": True, "eos_token_id": 0, "pad_token_id": 0}
    vision |= {"out_hidden_size": text["hidden_size"], "patch_size": 16}
    return Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=True, **_ids())


POLICIES: Mapping[str, PolicyShape] = {
    "Qwen2.5-VL-3B": PolicyShape("qwen2.5-vl-system-tool", 14, qwen2_5_vl_3b),
    "Qwen3.5-4B": PolicyShape("qwen3-vl", 16, qwen3_5_4b),
}


def qwen_image_edit(device: str, dtype: torch.dtype, *, tiny: bool, layers: int | None = None) -> Any:
    """Return a `QwenImageEditPipeline` with random weights on a device.

    Args:
        device: of the weights.
        dtype: of the weights.
        tiny: small parts of the same classes.
        layers: of the transformer; None is the real number, 60.
    """
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLProcessor, Qwen2VLVideoProcessor

    encoder = qwen2_5_vl_7b(tiny or layers is not None)
    width = encoder.text_config.hidden_size
    transformer: Settings = {"joint_attention_dim": width}
    if tiny:
        transformer |= {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (8, 4, 4)}
    if tiny or layers is not None:
        transformer["num_layers"] = layers or 2
    with built_on(device, dtype):
        parts = {
            "transformer": QwenImageTransformer2DModel(**transformer).eval(),
            "vae": AutoencoderKLQwenImage(**({"base_dim": 8, "num_res_blocks": 1} if tiny else {})).eval(),
            "text_encoder": Qwen2_5_VLForConditionalGeneration._from_config(encoder, dtype=dtype).eval(),
        }
    processor = Qwen2VLProcessor(
        image_processor=_image_processor(14, tiny), tokenizer=tokenizer(), video_processor=Qwen2VLVideoProcessor()
    )
    # As the published scheduler_config.json.
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
        time_shift_type="exponential",
    )
    return QwenImageEditPipeline(scheduler=scheduler, tokenizer=tokenizer(), processor=processor, **parts)


def save_grounding_dino(folder: Path, *, tiny: bool) -> Path:
    """Write GroundingDINO of the size of `grounding-dino-base` (Swin-B), with random weights."""
    if tiny:
        from tests.tiny.detectors import grounding_dino

        return grounding_dino(folder)
    from transformers import (
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    backbone = SwinConfig(
        image_size=384,
        embed_dim=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=12,
        out_features=["stage2", "stage3", "stage4"],
    )
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(GroundingDinoConfig(backbone_config=backbone)).eval().save_pretrained(folder)
    GroundingDinoProcessor(GroundingDinoImageProcessor(), bert_tokenizer()).save_pretrained(folder)
    return folder


def save_sam(folder: Path, *, tiny: bool) -> Path:
    """Write SAM of the size of `sam-vit-base`, with random weights."""
    if tiny:
        from tests.tiny.segmenters import sam

        return sam(folder)
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    torch.manual_seed(0)
    SamModel(SamConfig()).eval().save_pretrained(folder)
    SamProcessor(SamImageProcessor()).save_pretrained(folder)
    return folder
