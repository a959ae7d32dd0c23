"""CLIP and SigLIP, a few ten thousand parameters each."""

from __future__ import annotations

from pathlib import Path

from tests.tiny.tokenizers import clip_tokenizer

_VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64}
_DEPTH = {"num_hidden_layers": 2, "num_attention_heads": 2}


def clip(folder: Path) -> Path:
    """`CLIPModel`."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 77,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        **_DEPTH,
    }
    config = CLIPConfig(text_config=text, vision_config={**_VISION, **_DEPTH}, projection_dim=16)
    CLIPModel(config).eval().save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def siglip(folder: Path) -> Path:
    """`SiglipModel`, on the tokenizer of CLIP padded to its length."""
    import torch
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    tokenizer.model_max_length = 64
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "projection_size": 32,
        **_DEPTH,
    }
    SiglipModel(SiglipConfig(text_config=text, vision_config={**_VISION, **_DEPTH})).eval().save_pretrained(folder)
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    SiglipProcessor(images, tokenizer).save_pretrained(folder)
    return folder
