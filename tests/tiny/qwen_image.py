"""QwenImageEdit, QwenImageEditPlus, QwenImageEditInpaint, and a Lightning LoRA for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.tokenizers import QWEN_SPECIAL, qwen_tokenizer

_LATENTS = 4


def _text_encoder(tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in QWEN_SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def _processor(tokenizer: Any) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    images = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=112 * 112)
    return Qwen2VLProcessor(image_processor=images, tokenizer=tokenizer, video_processor=Qwen2VLVideoProcessor())


def _save(pipeline: Any, folder: Path) -> Path:
    import torch
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel

    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    pipeline(
        transformer=QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=4 * _LATENTS,
            out_channels=_LATENTS,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=_LATENTS,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * _LATENTS,
            latents_std=[1.0] * _LATENTS,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        processor=_processor(tokenizer),
    ).save_pretrained(folder)
    return folder


def qwen_edit(folder: Path) -> Path:
    """`QwenImageEditPipeline`."""
    from diffusers import QwenImageEditPipeline

    return _save(QwenImageEditPipeline, folder)


def qwen_edit_plus(folder: Path) -> Path:
    """`QwenImageEditPlusPipeline`, the class of the checkpoints 2509 and 2511."""
    from diffusers import QwenImageEditPlusPipeline

    return _save(QwenImageEditPlusPipeline, folder)


def qwen_edit_inpaint(folder: Path) -> Path:
    """`QwenImageEditInpaintPipeline`."""
    from diffusers import QwenImageEditInpaintPipeline

    return _save(QwenImageEditInpaintPipeline, folder)


def lightning_lora(path: Path, checkpoint: Path, *, rank: int = 2) -> Path:
    """A LoRA on the attention of a Qwen-Image transformer, in the layout of the published Lightning files."""
    import torch
    from diffusers import QwenImageTransformer2DModel
    from safetensors.torch import save_file

    transformer = QwenImageTransformer2DModel.from_pretrained(checkpoint, subfolder="transformer")
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, module in transformer.named_modules():
        if name.endswith(("to_q", "to_k", "to_v")):
            shapes = {"lora_down": (rank, module.in_features), "lora_up": (module.out_features, rank)}
            for part, shape in shapes.items():
                tensors[f"{name}.{part}.weight"] = torch.randn(shape, generator=generator)
            tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, path)
    return path
