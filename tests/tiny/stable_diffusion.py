"""Stable Diffusion and SDXL with a VAE that shrinks eightfold, as the real one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.tokenizers import clip_tokenizer


def clip_config(*, projection: bool = False) -> Any:
    from transformers import CLIPTextConfig

    extra = {"hidden_act": "gelu", "projection_dim": 32} if projection else {}
    return CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=len(clip_tokenizer()),
        max_position_embeddings=77,
        **extra,
    )


def vae(latent_channels: int = 4, **extra: Any) -> Any:
    """Autoencoder of factor 8."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=[16] * 4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=latent_channels,
        norm_num_groups=8,
        layers_per_block=1,
        **extra,
    )


def _unet(channels: int, **extra: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(16, 32),
        norm_num_groups=8,
        layers_per_block=1,
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **extra,
    )


def _sd(pipeline: Any, channels: int, folder: Path) -> Path:
    import torch
    from diffusers import PNDMScheduler
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    pipeline(
        unet=_unet(channels, cross_attention_dim=32, attention_head_dim=8),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def sd_inpaint(folder: Path) -> Path:
    """`StableDiffusionInpaintPipeline` with the nine input channels of an inpainting UNet."""
    from diffusers import StableDiffusionInpaintPipeline

    return _sd(StableDiffusionInpaintPipeline, 9, folder)


def instruct_pix2pix(folder: Path) -> Path:
    """`StableDiffusionInstructPix2PixPipeline`: an editor whose UNet sees the image beside the noise."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    return _sd(StableDiffusionInstructPix2PixPipeline, 8, folder)


def _sdxl(pipeline: Any, channels: int, folder: Path) -> Path:
    import torch
    from diffusers import EulerDiscreteScheduler
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    pipeline(
        unet=_unet(
            channels,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 1),
            projection_class_embeddings_input_dim=80,
            cross_attention_dim=64,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            steps_offset=1,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
        ),
        vae=vae(sample_size=64),
        text_encoder=CLIPTextModel(clip_config(projection=True)),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(projection=True)),
        tokenizer_2=clip_tokenizer(),
    ).save_pretrained(folder)
    return folder


def sdxl_inpaint(folder: Path) -> Path:
    """`StableDiffusionXLInpaintPipeline` with the nine input channels of `stable-diffusion-xl-1.0-inpainting-0.1`."""
    from diffusers import StableDiffusionXLInpaintPipeline

    return _sdxl(StableDiffusionXLInpaintPipeline, 9, folder)


def sdxl(folder: Path) -> Path:
    """`StableDiffusionXLPipeline`: text to image."""
    from diffusers import StableDiffusionXLPipeline

    return _sdxl(StableDiffusionXLPipeline, 4, folder)
