"""Two turns of every family on a real vLLM engine, with images in user and tool turns: exact ids, exact log-probs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from agentfly.agents.llm_backends import AsyncVLLMBackend, AsyncVLLMConfig, GenerationRequest, SamplingParams
from agentfly.messages import ImagePart, Message, TextPart
from agentfly.templates import ChatCodec, load_template
from agentfly.templates.families import FAMILIES, find_family
from tests.tiny.families import BUILDERS, build_family

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NOISE = np.random.default_rng(0).integers(0, 255, (168, 168, 3), np.uint8)
IMAGES = {"a": Image.fromarray(NOISE), "b": Image.fromarray(NOISE[:84, :56]), "c": Image.fromarray(NOISE[:60, :130])}
ASK = Message("user", (ImagePart("a"), TextPart("What is here?")))
SEEN = [Message("tool", (TextPart("Two views:\n"), ImagePart("b"), ImagePart("c")))]
# vLLM's linear attention on a CPU (vllm/model_executor/layers/mamba/ops/cpu/gdn_attention.py:53); the log-probs of
# bfloat16 are as far from those of float32 in transformers, too.
BFLOAT16 = ("qwen3_5", "qwen3_5_moe", "minicpmv4_6")
EXACT = [
    model_type
    for family in FAMILIES.values()
    for model_type, support in family.support.items()
    if support.level != "endpoint" and model_type in BUILDERS
]


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let vLLM look at a model's class in this process: a process for each takes half a minute."""
    from vllm.model_executor.models import registry

    monkeypatch.setattr(registry, "_run_in_subprocess", lambda function: function())


@pytest.mark.parametrize("model_type", EXACT)
async def test_two_turns_are_exact(model_type: str, tmp_path: Path) -> None:
    family = find_family(model_type)
    assert family is not None
    path = build_family(model_type, tmp_path / model_type, load_template(family.templates[0]))
    low = {"dtype": "bfloat16"} if model_type in BFLOAT16 else {}
    if model_type.endswith("_moe") and not low and torch.cpu._is_amx_tile_supported():
        # vllm/model_executor/layers/fused_moe/cpu_fused_moe.py:53 makes a layer outside of the engine's configuration.
        pytest.skip("vLLM 0.24 has no experts in float32 on a processor with AMX tiles")
    sizes: dict[str, Any] = {"max_model_len": 1024, "max_num_batched_tokens": 1024, "max_num_seqs": 4}
    config = AsyncVLLMConfig(**sizes, skip_mm_profiling=True, **low)
    backend = AsyncVLLMBackend(str(path), config)
    try:
        codec, handles = backend.codec, ["a"]
        ids = codec.prompt_ids([ASK], (), IMAGES.__getitem__)
        sampled, logprobs = list[int](), list[float]()
        for turn in range(2):
            if turn:
                ids += codec.continuation_ids(
                    SEEN, (), IMAGES.__getitem__, ended_by=codec.end_of(ids), images_before=len(handles)
                )
                handles += ["b", "c"]
            params = SamplingParams(max_tokens=10, seed=turn, extra={"ignore_eos": True, "stop_token_ids": []})
            # The backend raises unless the ids of vLLM's prompt are these.
            request = GenerationRequest(
                f"r{turn}", "r", [ASK], [], params, tuple(ids), tuple(handles), IMAGES.__getitem__
            )
            made = await backend.generate(request)
            assert made.token_ids is not None
            assert made.logprobs is not None
            sampled += range(len(ids), len(ids) + len(made.token_ids))
            logprobs += made.logprobs
            ids += made.token_ids
    finally:
        await backend.close()
    expected = model_logprobs(path, codec, ids, handles, "bfloat16" if low else "float32")
    found = [expected[place - 1][ids[place]] for place in sampled]
    assert np.abs(np.array(found) - logprobs).max() < (5e-2 if low else 1e-3)


def model_logprobs(path: Path, codec: ChatCodec, ids: list[int], handles: list[str], dtype: str) -> Any:
    """Return the log-probs of transformers' own model, with the inputs that its own processor makes."""
    from transformers import AutoModelForImageTextToText

    kind = getattr(torch, dtype)
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=kind).eval()
    mark = str(codec.tokenizer.convert_ids_to_tokens(codec.mark_id))
    made = codec.processor(text=[mark * len(handles)], images=[[IMAGES[h] for h in handles]], return_tensors="pt")
    inputs = {name: value for name, value in made.items() if name not in ("input_ids", "attention_mask")}
    tensor = torch.tensor([ids])
    images = (tensor == codec.image_id).int()
    for name in ("mm_token_type_ids", "token_type_ids"):
        inputs.pop(name, None)
    if codec.family.trainer == "grids" or model.config.model_type == "gemma4":
        inputs["mm_token_type_ids"] = images
    if model.config.model_type == "gemma3":
        inputs["token_type_ids"] = images
    inputs = {name: value.to(kind) if torch.is_floating_point(value) else value for name, value in inputs.items()}
    with torch.no_grad():
        logits = model(input_ids=tensor, attention_mask=torch.ones_like(tensor), **inputs).logits[0]
    return torch.log_softmax(logits.float(), -1).tolist()
