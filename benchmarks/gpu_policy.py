"""The policy of `gpu.py`: ids and pixels of a conversation, log-probs, and updates, on the real shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gpu_bench import Bench
from gpu_models import POLICIES, PolicyShape, schemas
from PIL import Image

from agentfly.agents.image_editing import SYSTEM_PROMPT
from agentfly.messages import ImagePart, Message, TextPart, text_message
from agentfly.templates import ChatCodec, load_template
from agentfly.training.supervised.config import LoraConfig
from agentfly.training.supervised.data.batches import Collator
from agentfly.training.supervised.data.examples import IGNORED, Example, conversation_ids, pixels_of
from agentfly.training.supervised.loop import Loop, LoopConfig
from agentfly.training.supervised.lora import add_adapters
from agentfly.training.supervised.trainer import adamw

EDITS = 3
CALL = (
    '<tool_call>{"name": "auto_inpaint_image", "arguments": {"image_id": "img_1", "detect_prompt": "red circle", '
    '"prompt": "blue star"}}</tool_call>'
)


def conversation() -> list[Message]:
    """Return a chain of three edits: four images in user and tool turns, and an answer."""
    messages = [
        text_message("system", SYSTEM_PROMPT),
        Message("user", (TextPart("img_1: "), ImagePart("0"), TextPart("Replace the red circle by a blue star."))),
    ]
    for edit in range(EDITS):
        name = str(edit + 1)
        messages += [
            text_message("assistant", CALL),
            Message("tool", (TextPart(f"img_{edit + 2}: "), ImagePart(name), TextPart("1 object repainted."))),
        ]
    return [*messages, text_message("assistant", CALL)]


def policy_part(bench: Bench) -> None:
    """Measure each policy: codec, log-probs in two precisions, updates with and without adapters."""
    for name, shape in POLICIES.items():
        with bench.of(name):
            _measure(bench, shape)


def _measure(bench: Bench, shape: PolicyShape) -> None:
    codec = ChatCodec(shape.processor(bench.tiny), load_template(shape.template))
    side = 128 if bench.tiny else 512
    noise = np.random.default_rng(0).integers(0, 256, (EDITS + 1, side, side, 3), np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    messages, tools = conversation(), schemas()
    turns = [message.text for message in messages if message.role == "assistant"]

    def encode() -> tuple[list[int], list[int], list[str]]:
        return conversation_ids(messages, tools, codec, lambda handle: images[int(handle)], turns)

    ids, labels, _ = encode()
    placeholders = sum(codec.image_runs(ids))
    bench.measure("ids of a chain (codec)", encode, calls=5, tokens=len(ids), image_tokens=placeholders)
    bench.measure("pixels of its four images (processor)", lambda: pixels_of(codec, images), calls=3)
    pixels, grids = pixels_of(codec, images)
    chain = Example(ids, labels, pixels, grids)
    _log_probs(bench, shape, codec, chain)
    batch = [chain] * (1 if bench.tiny else 8)
    ways = [(32, True), (0, False)] if bench.tiny else [(32, False), (32, True), (0, False), (0, True)]
    for rank, checkpointing in ways:
        _update(bench, shape, codec, batch, rank=rank, checkpointing=checkpointing)


def _log_probs(bench: Bench, shape: PolicyShape, codec: ChatCodec, chain: Example) -> None:
    if not bench.room("log-probs"):
        return
    model = shape.model(bench.device, torch.float32, tiny=bench.tiny).eval()
    inputs = Collator.of(model, codec.processor, bench.device)([chain])
    following = inputs.pop("labels")[:, 1:]
    kept = (following[0] != IGNORED).nonzero().squeeze(1)
    tokens = len(chain.ids)

    def log_probs() -> torch.Tensor:
        with torch.no_grad():
            logits = model(**inputs, use_cache=False, logits_to_keep=kept).logits
        return logits.float().log_softmax(-1)[0].gather(1, following[0, kept][:, None])[:, 0]

    exact = bench.measure("log-probs of a chain, float32", log_probs, calls=2, tokens=tokens)
    model.to(torch.bfloat16)
    rounded = bench.measure("log-probs of a chain, bfloat16", log_probs, calls=5, tokens=tokens)
    if exact is not None and rounded is not None:
        apart = (exact - rounded).abs()
        bench.add("bfloat16 against float32", largest=float(apart.max()), mean=float(apart.mean()))


def _update(
    bench: Bench, shape: PolicyShape, codec: ChatCodec, batch: Sequence[Example], *, rank: int, checkpointing: bool
) -> None:
    what = f"update, {'LoRA rank ' + str(rank) if rank else 'all weights'}"
    what += ", checkpointing" if checkpointing else ""
    if not bench.room(what):
        return
    half = bench.device != "cpu"
    # As `agentfly sft` does it: trained weights are in float32, frozen ones in half precision.
    model = shape.model(bench.device, torch.bfloat16 if half and rank else torch.float32, tiny=bench.tiny)
    collate = Collator.of(model, codec.processor, bench.device)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if rank:
        model = add_adapters(model, LoraConfig(rank=rank, targets=targets(model)))
    tokens = sum(len(example.ids) for example in batch)
    settings = LoopConfig(
        steps=1,
        batch_size=len(batch),
        warmup=1,
        micro_batch=len(batch),
        micro_batch_tokens=8192,
        label_power=1.0,
        labelled_logits=True,
    )
    loop = Loop(model, adamw(model, 1e-5, 0.0), settings, collate, autocast=half)
    bench.measure(what, lambda: loop.run(batch), calls=2, tokens=tokens, chains=len(batch))


def targets(model: torch.nn.Module) -> tuple[str, ...]:
    """Return the default layers for adapters, and those of a gated delta net where the model has one."""
    more = ("in_proj_qkv", "in_proj_z", "out_proj")
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return (*LoraConfig().targets, *(name for name in more if name in names))
