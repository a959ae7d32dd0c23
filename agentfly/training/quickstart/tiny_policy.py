"""Build a tiny policy of the real class: Qwen2.5-VL with about a million parameters.

It can be trained in minutes on two cores for these reasons:

- its own vocabulary, trained with Qwen's pre-tokeniser on the words of the sticker world, with the fixed pieces of a
  tool call as single tokens (as Qwen has `<tool_call>`), so that a call has about sixteen tokens;
- images at 84 x 84: nine visual tokens;
- embeddings exactly as large as the vocabulary, so that vLLM masks nothing and log-probs agree;
- rotary positions for images of three by three tokens: no width for time, and first frequencies so fast that one step
  across is a large angle. After 300 steps on "the sticker in the top left?", base 30 with sections (4, 6, 6) answers
  0.52 of the held-out images with two stickers and 0.38 of those with three; base 8 with (0, 5, 11) answers 1.0 and
  0.90. The last frequencies must be slow as well, or distant words are not found again. After a warm start of 300 steps
  the second call of a held-out task of two steps has the right words in 0.07 with base 8 and (0, 7, 9), in 0.40 with
  base 100 and (0, 5, 11); after 750 in 0.78 and 0.97, and a look finds its sticker in 0.62 and 0.72.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.settings import Settings
from agentfly.templates import load_template

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig, Qwen2TokenizerFast, Qwen2VLImageProcessor

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CALL_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    '{"name": "',
    "detect_objects",
    "inpaint_image",
    "auto_inpaint_image",
    "qwen_edit_image",
    "give_answer",
    '", "arguments": {"image_id": "img_',
    '", "arguments": {"final_image_id": "img_',
    '", "mask_id": "mask_',
    '", "text_prompt": "',
    '", "detect_prompt": "',
    '", "prompt": "',
    '", "box_threshold": 0.',
    ', "auto_mask_dilate": ',
    '"}}',
    "}}",
    "img_",
    "mask_",
)
# Of the tools that look and retouch, with the corners and middles of the cells of the sticker world.
MORE_CALL_TOKENS = (
    "zoom",
    "colour_at",
    "adjust_tone",
    "adjust_colour",
    '", "box": [',
    '", "x": ',
    ', "y": ',
    '", "exposure": ',
    '", "temperature": ',
    '", "tint": ',
    "view_",
    "28",
    "56",
    "84",
    "112",
    "140",
    "168",
)


class PolicySize(Settings):
    """Shape of a tiny policy; the default has 1.1 million parameters.

    Attributes:
        hidden, layers, ffn, heads, kv_heads: of the language model.
        vision_hidden, vision_layers, vision_ffn, vision_heads: of the vision tower.
        image_side: images are seen at this many pixels a side, a multiple of 28.
        rope_theta: rotary base of the language model.
        mrope_section: split of half a head's width over time, height and width.
    """

    hidden: int = 128
    layers: int = 3
    ffn: int = 384
    heads: int = 4
    kv_heads: int = 2
    vision_hidden: int = 96
    vision_layers: int = 2
    vision_ffn: int = 192
    vision_heads: int = 3
    image_side: int = 84
    rope_theta: float = 100.0
    mrope_section: tuple[int, int, int] = (0, 5, 11)

    def vision_config(self) -> dict[str, object]:
        """Return the settings of the vision part, with the names of `Qwen2_5_VLConfig`."""
        return {
            "depth": self.vision_layers,
            "hidden_size": self.vision_hidden,
            "intermediate_size": self.vision_ffn,
            "num_heads": self.vision_heads,
            "out_hidden_size": self.hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": list(range(self.vision_layers)),
            "tokens_per_second": 2,
            "in_channels": 3,
            "initializer_range": 0.05,
        }


def build_policy(
    path: Path,
    corpus: Sequence[str],
    *,
    size: PolicySize | None = None,
    template: str = "compact-tool",
    seed: int = 0,
    call_tokens: Sequence[str] = CALL_TOKENS,
) -> int:
    """Write an untrained policy and its processor as a Hugging Face folder.

    Args:
        path: folder to write.
        corpus: texts that the tokenizer must know.
        size: of the model.
        template: chat template of the processor.
        seed: of the weights.
        call_tokens: pieces of tool calls that are single tokens.

    Returns:
        Number of parameters.
    """
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

    size = size or PolicySize()
    path.mkdir(parents=True, exist_ok=True)
    chat_template = load_template(template)
    tokenizer = train_tokenizer(corpus, chat_template, call_tokens)
    processor = Qwen2_5_VLProcessor(
        image_processor=image_processor(size),
        tokenizer=tokenizer,
        chat_template=chat_template,
        video_processor=Qwen2VLVideoProcessor(),
    )
    processor.save_pretrained(path)
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer, size)).to(torch.float32)
    end, pad = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    model.generation_config.eos_token_id = [end, pad]
    model.generation_config.pad_token_id = pad
    model.save_pretrained(path)
    return sum(parameter.numel() for parameter in model.parameters())


def train_tokenizer(
    corpus: Sequence[str], template: str, call_tokens: Sequence[str] = CALL_TOKENS
) -> Qwen2TokenizerFast:
    """Return a Qwen tokenizer with a vocabulary of its own and the fixed pieces of a tool call as single tokens.

    Args:
        corpus: texts that it is trained on.
        template: chat template that it gets.
        call_tokens: see `build_policy`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=2,
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    trained = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2TokenizerFast(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|endoftext|>", "<|im_end|>")],
        model_max_length=4096,
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in call_tokens])
    tokenizer.chat_template = template
    return tokenizer


def image_processor(size: PolicySize) -> Qwen2VLImageProcessor:
    """Return the image processor of policies of this size."""
    from transformers import Qwen2VLImageProcessor

    pixels = size.image_side**2
    return Qwen2VLImageProcessor(
        min_pixels=56 * 56, max_pixels=pixels, patch_size=14, merge_size=2, temporal_patch_size=2
    )


def _config(tokenizer: Qwen2TokenizerFast, size: PolicySize) -> Qwen2_5_VLConfig:
    from transformers import Qwen2_5_VLConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    rope = {
        "rope_type": "default",
        "type": "default",
        "mrope_section": list(size.mrope_section),
        "rope_theta": size.rope_theta,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.hidden,
        "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
        "rope_parameters": rope,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=size.vision_config(),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    return config
