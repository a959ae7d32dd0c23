"""Flux Fill and Flux Kontext."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.stable_diffusion import clip_config, vae
from tests.tiny.tokenizers import clip_tokenizer, t5_tokenizer

_LATENTS = 4


def _save(pipeline: Any, channels: int, folder: Path) -> Path:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5Config, T5EncoderModel

    torch.manual_seed(0)
    words = t5_tokenizer()
    pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(_LATENTS, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5035),
        text_encoder=CLIPTextModel(clip_config(projection=True)),
        tokenizer=clip_tokenizer(),
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
        ),
        tokenizer_2=words,
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=channels,
            out_channels=4 * _LATENTS,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
    ).save_pretrained(folder)
    return folder


def flux_fill(folder: Path) -> Path:
    """`FluxFillPipeline`: its transformer takes latents, masked latents and the mask of each packed patch."""
    from diffusers import FluxFillPipeline

    return _save(FluxFillPipeline, 8 * _LATENTS + 8 * 8 * 4, folder)


def flux_kontext(folder: Path) -> Path:
    """`FluxKontextPipeline`: an editor distilled for guidance."""
    from diffusers import FluxKontextPipeline

    return _save(FluxKontextPipeline, 4 * _LATENTS, folder)
