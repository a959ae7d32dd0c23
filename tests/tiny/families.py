"""Tiny random checkpoints of the model families, of the real classes, with the special tokens that the real ones have.

`build_family(name, folder, template)` writes one, as `from_pretrained` reads it. Every checkpoint has a vocabulary of
bytes and some merges, a language model of two to four layers and a vision tower of one or two, and its embeddings are
exactly as large as the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CORPUS = (
    "Remove the red circle. Make it brighter. What do you see? I look at the image img_1 and call the tool.",
    '<tool_call>\n{"name": "detect_objects", "arguments": {"image_id": "img_1", "prompt": "circle"}}\n</tool_call>',
    "<tool_call>\n<function=look>\n<parameter=image_id>\nimg_1\n</parameter>\n</function>\n</tool_call>",
    "<think>\nThe circle is red.\n</think>\n\nI see a red circle and a yellow star.",
    "system user assistant model tool You are a helpful assistant. # Tools You have access to the following functions",
)
QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_WORDS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
GLM_SPECIAL = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|image|>",
    "<|video|>",
)
GLM_WORDS = (
    "/nothink",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
)
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    # vLLM's attention on a CPU has heads of 32 and more.
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "initializer_range": 0.05,
}


def _byte_bpe(vocab_size: int = 420) -> Any:
    """Train a byte-level BPE on the corpus."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        special_tokens=[],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    return bpe


def _byte_tokenizer(
    special: Sequence[str], words: Sequence[str] = (), cls: str = "TokenizersBackend", **settings: Any
) -> Any:
    """Return a byte-level tokenizer.

    Args:
        special: special tokens, which decoding leaves out.
        words: further tokens that are one piece, which decoding shows.
        cls: class of transformers.
        settings: of the tokenizer; `extra_special_tokens` may name special tokens.
    """
    import json

    import transformers
    from tokenizers import AddedToken
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    bpe = _byte_bpe()
    if cls == "TokenizersBackend":
        made = TokenizersBackend(tokenizer_object=bpe, **settings)
    else:
        trained = json.loads(bpe.to_str())["model"]
        merges = [tuple(merge) for merge in trained["merges"]]
        made = getattr(transformers, cls)(vocab=trained["vocab"], merges=merges, **settings)
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in words])
    return made


def _qwen_tokenizer(cls: str) -> Any:
    return _byte_tokenizer(
        QWEN_SPECIAL,
        QWEN_WORDS,
        cls,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
    )


def _glm_tokenizer() -> Any:
    return _byte_tokenizer(
        GLM_SPECIAL, GLM_WORDS, eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=4096
    )


def _qwen_image_processor(patch: int) -> Any:
    from transformers import Qwen2VLImageProcessor

    side = 2 * patch
    return Qwen2VLImageProcessor(
        min_pixels=side * side, max_pixels=9 * side * side, patch_size=patch, merge_size=2, temporal_patch_size=2
    )


def _save(folder: Path, model: Any, processor: Any, eos: Sequence[str], pad: str) -> None:
    import torch

    tokenizer = processor.tokenizer
    processor.save_pretrained(folder)
    model = model.to(torch.float32)
    ids = [tokenizer.convert_tokens_to_ids(token) for token in eos]
    model.generation_config.eos_token_id = ids if len(ids) > 1 else ids[0]
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids(pad)
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)


def _rename(folder: Path, old: str, new: str) -> None:
    """Name weights as the published checkpoints do, from which transformers 5 has moved on and vLLM has not."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({name.replace(old, new, 1): weight for name, weight in weights.items()}, file, {"format": "pt"})


def _ids(tokenizer: Any, **tokens: str) -> dict[str, int]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    return _ids(
        tokenizer,
        image_token_id="<|image_pad|>",
        video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )


def _rope(sections: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": list(sections), "rope_theta": 100.0, **more}


def qwen2_5_vl(folder: Path, template: str) -> None:
    import transformers as t

    tokenizer = _qwen_tokenizer("Qwen2Tokenizer")
    config = t.Qwen2_5_VLConfig(
        text_config={
            **_TEXT,
            "vocab_size": len(tokenizer),
            "rope_parameters": _rope((4, 6, 6)),
            "tie_word_embeddings": True,
            **_ids(tokenizer, eos_token_id="<|im_end|>", pad_token_id="<|endoftext|>", bos_token_id="<|endoftext|>"),
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [0],
            "tokens_per_second": 2,
        },
        tie_word_embeddings=True,
        **_qwen_ids(tokenizer),
    )
    processor = t.Qwen2_5_VLProcessor(
        image_processor=_qwen_image_processor(14),
        tokenizer=tokenizer,
        video_processor=t.Qwen2VLVideoProcessor(),
        chat_template=template,
    )
    _save(folder, t.Qwen2_5_VLForConditionalGeneration(config), processor, QWEN_SPECIAL[2::-2], "<|endoftext|>")


_QWEN3_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 16,
    "num_position_embeddings": 64,
}


def _qwen3_processor(tokenizer: Any, template: str) -> Any:
    import transformers as t

    return t.Qwen3VLProcessor(
        image_processor=_qwen_image_processor(16),
        tokenizer=tokenizer,
        video_processor=t.Qwen3VLVideoProcessor(),
        chat_template=template,
    )


def _qwen3(
    folder: Path, template: str, tokenizer: str, kind: str, text: dict[str, Any], vision: dict[str, Any]
) -> None:
    import transformers as t

    made = _qwen_tokenizer(tokenizer)
    config = getattr(t, f"{kind}Config")(
        text_config={
            **_TEXT,
            "head_dim": 32,
            "vocab_size": len(made),
            "tie_word_embeddings": True,
            **_ids(made, eos_token_id="<|im_end|>", pad_token_id="<|endoftext|>", bos_token_id="<|endoftext|>"),
            **text,
        },
        vision_config={**_QWEN3_VISION, **vision},
        tie_word_embeddings=True,
        **_qwen_ids(made),
    )
    model = getattr(t, f"{kind}ForConditionalGeneration")(config)
    _save(folder, model, _qwen3_processor(made, template), QWEN_SPECIAL[2::-2], "<|endoftext|>")


_QWEN3_ROPE = {"rope_parameters": _rope((8, 4, 4), mrope_interleaved=True)}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LINEAR = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "mamba_ssm_dtype": "float32",
    "rope_parameters": _rope((2, 1, 1), mrope_interleaved=True, partial_rotary_factor=0.25),
}


def qwen3_vl(folder: Path, template: str) -> None:
    _qwen3(folder, template, "Qwen2Tokenizer", "Qwen3VL", _QWEN3_ROPE, {"deepstack_visual_indexes": [0]})


def qwen3_vl_moe(folder: Path, template: str) -> None:
    # vLLM reads the name, which transformers leaves out.
    text = {**_QWEN3_ROPE, **_EXPERTS, "norm_topk_prob": True}
    _qwen3(folder, template, "Qwen2Tokenizer", "Qwen3VLMoe", text, {"deepstack_visual_indexes": [0]})


def qwen3_5(folder: Path, template: str) -> None:
    _qwen3(folder, template, "Qwen3_5Tokenizer", "Qwen3_5", _LINEAR, {})


def qwen3_5_moe(folder: Path, template: str) -> None:
    text = {**_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 32}
    _qwen3(folder, template, "Qwen3_5Tokenizer", "Qwen3_5Moe", text, {})


def _glm(folder: Path, template: str, kind: str, text: dict[str, Any]) -> None:
    import transformers as t

    tokenizer = _glm_tokenizer()
    ids = _ids(
        tokenizer,
        image_token_id="<|image|>",
        video_token_id="<|video|>",
        image_start_token_id="<|begin_of_image|>",
        image_end_token_id="<|end_of_image|>",
        video_start_token_id="<|begin_of_video|>",
        video_end_token_id="<|end_of_video|>",
    )
    config = getattr(t, f"{kind}Config")(
        text_config={
            **_TEXT,
            "vocab_size": len(tokenizer),
            "rope_parameters": _rope((4, 2, 2), partial_rotary_factor=0.5),
            "tie_word_embeddings": False,
            **_ids(tokenizer, eos_token_id="<|endoftext|>", pad_token_id="<|endoftext|>"),
            **text,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "image_size": 84,
        },
        tie_word_embeddings=False,
        **ids,
    )
    processor = t.Glm46VProcessor(
        image_processor=t.Glm46VImageProcessor(
            size={"shortest_edge": 56 * 56, "longest_edge": 84 * 84 * 2}, patch_size=14, merge_size=2
        ),
        tokenizer=tokenizer,
        video_processor=t.Glm46VVideoProcessor(),
        chat_template=template,
    )
    model = getattr(t, f"{kind}ForConditionalGeneration")(config)
    _save(folder, model, processor, ("<|endoftext|>", "<|user|>", "<|observation|>"), "<|endoftext|>")


def glm4v(folder: Path, template: str) -> None:
    """GLM-4.6V-Flash: the classes of GLM-4.1V, with the processor of GLM-4.6V."""
    _glm(folder, template, "Glm4v", {})


def glm4v_moe(folder: Path, template: str) -> None:
    text = {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "use_qk_norm": False,
        "head_dim": 32,
    }
    _glm(folder, template, "Glm4vMoe", text)


def internvl(folder: Path, template: str) -> None:
    """InternVL3.5 in the form of transformers: a Qwen3 with InternVL's own vision tower."""
    import transformers as t

    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *names.values())
    tokenizer = _byte_tokenizer(
        special,
        QWEN_WORDS,
        "Qwen2Tokenizer",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=names,
        model_max_length=4096,
    )
    text = {
        **_TEXT,
        "model_type": "qwen3",
        "head_dim": 32,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": False,
        **_ids(tokenizer, eos_token_id="<|im_end|>", pad_token_id="<|endoftext|>", bos_token_id="<|endoftext|>"),
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": [56, 56],
        "patch_size": [14, 14],
        "attention_bias": True,
    }
    config = t.InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_seq_length=4,
        tie_word_embeddings=False,
        **_ids(tokenizer, image_token_id="<IMG_CONTEXT>"),
    )
    processor = t.InternVLProcessor(
        image_processor=t.GotOcr2ImageProcessor(
            size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        tokenizer=tokenizer,
        video_processor=t.InternVLVideoProcessor(size={"height": 56, "width": 56}),
        image_seq_length=4,
        chat_template=template,
    )
    _save(folder, t.InternVLForConditionalGeneration(config), processor, special[2::-2], "<|endoftext|>")


def _gemma_tokenizer(special: Sequence[str], named: dict[str, str], words: Sequence[str] = ()) -> Any:
    """Return a Gemma tokenizer: characters and bytes, runs of new lines as tokens, no merges but those of the runs."""
    from tokenizers import AddedToken
    from transformers import GemmaTokenizer

    vocab = {token: index for index, token in enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))}
    runs = ["\n" * length for length in range(1, 9)]
    letters = sorted({letter for text in CORPUS for letter in text.replace(" ", "▁")} - {"\n"})
    for token in (*runs, *letters, *(f"<0x{byte:02X}>" for byte in range(256))):
        vocab.setdefault(token, len(vocab))
    merges = [("\n" * (length - 1), "\n") for length in range(2, 9)]
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, extra_special_tokens=named, model_max_length=4096)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in words])
    return tokenizer


def gemma3(folder: Path, template: str) -> None:
    import transformers as t

    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = _gemma_tokenizer(("<start_of_turn>", "<end_of_turn>", *named.values()), named)
    text = {
        **_TEXT,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "vocab_size": len(tokenizer),
        "sliding_window": 512,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 56,
        "patch_size": 14,
        "vision_use_head": False,
    }
    config = t.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        **_ids(
            tokenizer,
            image_token_index="<image_soft_token>",
            boi_token_index="<start_of_image>",
            eoi_token_index="<end_of_image>",
        ),
    )
    processor = t.Gemma3Processor(
        image_processor=t.Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=template,
    )
    _save(folder, t.Gemma3ForConditionalGeneration(config), processor, ("<eos>", "<end_of_turn>"), "<pad>")
    _rename(folder, "vision_tower.", "vision_tower.vision_model.")


def gemma4(folder: Path, template: str) -> None:
    import transformers as t

    named = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    }
    special = (
        *("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", "<|video|>"),
        *("<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'),
        *named.values(),
    )
    tokenizer = _gemma_tokenizer(special, named)
    text = {
        **_TEXT,
        "head_dim": 32,
        "global_head_dim": 32,
        "vocab_size": len(tokenizer),
        "vocab_size_per_layer_input": len(tokenizer),
        "hidden_size_per_layer_input": 16,
        "sliding_window": 512,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "position_embedding_size": 64,
        "default_output_length": 70,
    }
    config = t.Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=None,
        **_ids(
            tokenizer,
            image_token_id="<|image|>",
            boi_token_id="<|image>",
            eoi_token_id="<image|>",
            video_token_id="<|video|>",
            audio_token_id="<|audio|>",
            boa_token_id="<|audio>",
            eoa_token_index="<audio|>",
        ),
    )
    processor = t.Gemma4Processor(
        feature_extractor=t.Gemma4AudioFeatureExtractor(),
        image_processor=t.Gemma4ImageProcessor(max_soft_tokens=70),
        tokenizer=tokenizer,
        video_processor=t.Gemma4VideoProcessor(),
        image_seq_length=70,
        chat_template=template,
    )
    _save(folder, t.Gemma4ForConditionalGeneration(config), processor, ("<eos>", "<turn|>"), "<pad>")


def minicpmv4_6(folder: Path, template: str) -> None:
    """MiniCPM-V 4.6: Qwen3.5's language model with a vision tower that slices."""
    import transformers as t

    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values())
    tokenizer = _byte_tokenizer(
        special,
        QWEN_WORDS,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=named,
        model_max_length=4096,
    )
    text = {
        **_TEXT,
        **_LINEAR,
        "model_type": "qwen3_5_text",
        "head_dim": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.25},
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
        **_ids(tokenizer, eos_token_id="<|im_end|>", pad_token_id="<|endoftext|>", bos_token_id="<|endoftext|>"),
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "image_size": 112,
        "patch_size": 14,
        "insert_layer_id": 0,
    }
    config = t.MiniCPMV4_6Config(
        text_config=text,
        vision_config=vision,
        image_size=112,
        insert_layer_id=0,
        tie_word_embeddings=True,
        **_ids(tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>"),
    )
    processor = t.MiniCPMV4_6Processor(
        image_processor=t.MiniCPMV4_6ImageProcessor(max_slice_nums=4, scale_resolution=112, patch_size=14),
        video_processor=t.MiniCPMV4_6VideoProcessor(),
        tokenizer=tokenizer,
        chat_template=template,
    )
    _save(folder, t.MiniCPMV4_6ForConditionalGeneration(config), processor, special[2::-2], "<|endoftext|>")


MISTRAL_SPECIAL = (
    *("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
)


def mistral3(folder: Path, template: str) -> None:
    import transformers as t

    tokenizer = _byte_tokenizer(
        MISTRAL_SPECIAL, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=4096
    )
    text = {
        **_TEXT,
        "model_type": "mistral",
        "head_dim": 32,
        "vocab_size": len(tokenizer),
        "sliding_window": None,
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 112,
        "patch_size": 14,
        "head_dim": 16,
    }
    config = t.Mistral3Config(
        text_config=text,
        vision_config=vision,
        spatial_merge_size=2,
        tie_word_embeddings=False,
        **_ids(tokenizer, image_token_index="[IMG]"),
    )
    processor = t.PixtralProcessor(
        image_processor=t.PixtralImageProcessor(size={"longest_edge": 112}, patch_size={"height": 14, "width": 14}),
        tokenizer=tokenizer,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=template,
    )
    _save(folder, t.Mistral3ForConditionalGeneration(config), processor, ("</s>",), "<pad>")


def lfm2_vl(folder: Path, template: str) -> None:
    import transformers as t

    named = {
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail": "<|img_thumbnail|>",
    }
    tiles = tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 11) for column in range(1, 11))
    special = (
        *("<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        *("<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>", "<|tool_call_end|>"),
        *("<|tool_response_start|>", "<|tool_response_end|>", *named.values(), *tiles),
    )
    tokenizer = _byte_tokenizer(
        special,
        bos_token="<|startoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        extra_special_tokens=named,
        model_max_length=4096,
    )
    text = {
        **_TEXT,
        "model_type": "lfm2",
        "block_ff_dim": 96,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention"],
        "conv_dim": 64,
        "conv_dim_out": 64,
        "block_dim": 64,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
        **_ids(tokenizer, pad_token_id="<|pad|>", bos_token_id="<|startoftext|>", eos_token_id="<|im_end|>"),
    }
    vision = {
        "model_type": "siglip2_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_patches": 64,
        "patch_size": 16,
        "vision_use_head": False,
    }
    config = t.Lfm2VlConfig(
        text_config=text,
        vision_config=vision,
        projector_hidden_size=64,
        tie_word_embeddings=True,
        **_ids(tokenizer, image_token_id="<image>"),
    )
    processor = t.Lfm2VlProcessor(
        image_processor=t.Lfm2VlImageProcessor(
            tile_size=64, min_tiles=2, max_tiles=4, min_image_tokens=4, max_image_tokens=16, encoder_patch_size=16
        ),
        tokenizer=tokenizer,
        chat_template=template,
    )
    _save(folder, t.Lfm2VlForConditionalGeneration(config), processor, ("<|im_end|>",), "<|pad|>")
    _rename(folder, "vision_tower.", "vision_tower.vision_model.")


BUILDERS: dict[str, Callable[[Path, str], None]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5_moe,
    "glm4v": glm4v,
    "glm4v_moe": glm4v_moe,
    "internvl": internvl,
    "gemma3": gemma3,
    "gemma4": gemma4,
    "minicpmv4_6": minicpmv4_6,
    "mistral3": mistral3,
    "lfm2_vl": lfm2_vl,
}


def build_family(name: str, folder: Path, template: str, seed: int = 0) -> Path:
    """Write a checkpoint of a model type into a folder, and give the folder.

    Args:
        name: model type, a key of `BUILDERS`.
        folder: to write.
        template: text of the chat template of its processor.
        seed: of the weights.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    BUILDERS[name](folder, template)
    return folder
