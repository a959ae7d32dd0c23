"""EditScore and EditReward: tiny Qwen2.5-VL models, the heads of the latter, and prompts in words of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.tokenizers import QWEN_SPECIAL, qwen_tokenizer

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKEN = "<|Reward|>"


def _config(tokenizer: Any, size: int) -> Any:
    from transformers import Qwen2_5_VLConfig

    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in QWEN_SPECIAL}
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": size,
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


def _save_processor(tokenizer: Any, folder: Path) -> None:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    images = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    processor = Qwen2_5_VLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_TEMPLATE,
    )
    processor.save_pretrained(folder)


def editscore(folder: Path) -> Path:
    """`Qwen2_5_VLForConditionalGeneration`, as a merged checkpoint of EditScore is."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    Qwen2_5_VLForConditionalGeneration(_config(tokenizer, len(tokenizer))).eval().save_pretrained(folder)
    _save_processor(tokenizer, folder)
    return folder


def editreward(folder: Path, *, heads: bool = True) -> Path:
    """The same class with `rm_heads`, in one file with a vocabulary that has the special token."""
    import torch
    from safetensors.torch import save_file
    from torch import nn
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer, len(tokenizer) + 1)).eval()
    state = dict(model.state_dict())
    # The configuration is that of the base model, whose vocabulary has another size.
    _config(tokenizer, len(tokenizer) + 7).save_pretrained(folder)
    if heads:
        for name in ("head_0", "head_1"):
            layers = (nn.Linear(16, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
            head = nn.Sequential(*layers)
            with torch.no_grad():
                head[0].weight.mul_(20.0)  # else every image is worth the same
            state |= {f"rm_heads.{name}.{key}": value for key, value in head.state_dict().items()}
    save_file({name: value.clone().contiguous() for name, value in state.items()}, folder / "model.safetensors")
    _save_processor(tokenizer, folder)
    return folder


def editscore_prompts(folder: Path) -> Path:
    """A file as EditScore's `vie_prompts.py`."""
    path = folder / "vie_prompts.py"
    path.write_text(
        '_context_no_delimit_reasoning_first = "Answer in JSON."\n'
        '_prompts_0shot_two_image_edit_rule = "Two images."\n'
        '_prompts_0shot_tie_rule_SC = """From 0 to 10. Task: <instruction>"""\n'
        '_prompts_0shot_rule_PQ = "Quality from 0 to 10."\n'
        "raise SystemExit('nobody runs this')\n",
        encoding="utf-8",
    )
    return path


def editreward_prompts(folder: Path) -> Path:
    """A folder as EditReward's `EditReward/dataset`."""
    (folder / "prompts.py").write_text(
        'INSTRUCTION_EDIT_FOLLOWING = "Follows {text_prompt}?"\nINSTRUCTION_EDIT_QUALITY = "Good for {text_prompt}?"\n',
        encoding="utf-8",
    )
    (folder / "data_collator_qwen_edit.py").write_text(
        f'import os\nprompt_with_special_token = "\\nRate: {TOKEN}\\n"\n', encoding="utf-8"
    )
    return folder
