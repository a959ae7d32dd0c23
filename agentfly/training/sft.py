"""Supervised training of a policy on conversations, with the tokens and masks of the rollout's own codec."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from agentfly.messages import Message
from agentfly.templates import ChatCodec

logger = logging.getLogger(__name__)

_MICRO_BATCH = 8

IGNORED = -100  # label of ids that carry no loss (PyTorch's cross entropy default)


class SFTConfig(BaseModel):
    """Settings of supervised training.

    Attributes:
        steps: optimiser steps.
        batch_size: examples a step.
        learning_rate: peak for matrices (Muon, scaled to the step size of AdamW), after `warmup` steps, then cosine to
            5 %.
        vector_learning_rate: the same for embeddings, biases and norms (AdamW).
        max_grad_norm: clipping.
        seed: of the order of examples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 300
    batch_size: int = 32
    learning_rate: float = 6e-3
    vector_learning_rate: float = 3e-3
    warmup: int = 30
    max_grad_norm: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """One conversation as ids.

    Attributes:
        ids: all ids, placeholders expanded.
        labels: the id where it carries loss, else `IGNORED`. Same length.
        pixels: patches of all pictures, shape (patches, channels × time × side²), float32.
        grids: (time, rows, columns) of patches for each picture.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    pixels: np.ndarray[Any, np.dtype[np.float32]]
    grids: tuple[tuple[int, int, int], ...]

    @property
    def labelled(self) -> int:
        """Ids that carry loss."""
        return sum(label != IGNORED for label in self.labels)

    def ending_with(self, count: int) -> Example:
        """Without the end token, and with loss on the last `count` ids only."""
        ids = self.ids[:-1]
        return replace(self, ids=ids, labels=(IGNORED,) * (len(ids) - count) + ids[-count:])


def make_example(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    codec: ChatCodec,
    load_image: Callable[[str], Image.Image],
    turn_texts: Sequence[str],
) -> Example:
    """A conversation as the rollout would have tokenised it.

    Args:
        messages: with the assistant's turns in place.
        tools: schemas in the prompt.
        codec: of the policy.
        load_image: the picture behind a handle.
        turn_texts: text of each assistant turn as it is to be sampled, calls included.
    """
    starts = [i for i, message in enumerate(messages) if message.role == "assistant"]
    ids = codec.prompt_ids(messages[: starts[0]], tools, load_image)
    labels = [IGNORED] * len(ids)
    end = codec.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for turn, (start, text) in enumerate(zip(starts, turn_texts, strict=True)):
        sampled = [*codec.tokenizer(text, add_special_tokens=False)["input_ids"], end]
        ids, labels = ids + sampled, labels + sampled
        following = messages[start + 1 : starts[turn + 1]] if turn + 1 < len(starts) else ()
        if following:
            more = codec.continuation_ids(following, tools, load_image, closed=True)
            ids, labels = ids + more, labels + [IGNORED] * len(more)
    seen = messages[: starts[-1]]
    images = [load_image(handle) for message in seen for handle in message.images]
    pixels, grids = _pixels(codec, images)
    return Example(tuple(ids), tuple(labels), pixels, grids)


def _pixels(codec: ChatCodec, images: Sequence[Image.Image]) -> tuple[Any, tuple[tuple[int, int, int], ...]]:
    if not images:
        return np.zeros((0, 0), np.float32), ()
    batch = codec.processor.image_processor(images=[image.convert("RGB") for image in images], return_tensors="np")
    grids = tuple((int(t), int(h), int(w)) for t, h, w in batch["image_grid_thw"])
    return np.asarray(batch["pixel_values"], np.float32), grids


def train(
    policy: Path,
    examples: Sequence[Example],
    config: SFTConfig,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    """Train a policy folder in place.

    Args:
        policy: Hugging Face folder.
        examples: drawn at random, each epoch in a new order.
        config: see `SFTConfig`.
        on_step: called with the step (from 1) and its loss.

    Returns:
        Mean loss of the last 20 steps.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(policy)
    model: Any = AutoModelForImageTextToText.from_pretrained(policy, dtype=torch.float32, attn_implementation="sdpa")
    optimisers = _optimisers(model, config)
    pad, image = processor.tokenizer.pad_token_id, processor.image_token_id
    order, losses, begun = _order(len(examples), config), [], time.monotonic()
    model.train()
    for step in range(config.steps):
        batch = sorted((examples[next(order)] for _ in range(config.batch_size)), key=lambda example: len(example.ids))
        losses.append(_backward(model, batch, pad, image))
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for optimiser, peak in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = peak * _schedule(step, config)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step + 1, losses[-1])
    model.save_pretrained(policy)
    logger.info("supervised: %d steps in %.0f s, loss %.3f", config.steps, time.monotonic() - begun, losses[-1])
    return float(np.mean(losses[-20:]))


def _optimisers(model: Any, config: SFTConfig) -> list[tuple[Any, float]]:
    """Muon for the matrices inside the layers, which learns to see in a third of AdamW's steps; AdamW for the rest.

    Each with its peak learning rate.
    """
    import torch

    inner = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    taken = {id(p) for p in inner}
    others = [p for p in model.parameters() if id(p) not in taken]
    muon = torch.optim.Muon(inner, lr=config.learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=config.vector_learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [(muon, config.learning_rate), (adamw, config.vector_learning_rate)]


def _backward(model: Any, batch: Sequence[Example], pad: int, image: int) -> float:
    """Gradient of the batch's loss, which it returns: the examples' mean losses, weighted by the root of their labels.

    Weighted by labels, a word that only the picture tells would drown among conversations of thirty; all alike, it
    would drown them. Short and long examples go apart, which saves padding.
    """
    total, weights = 0.0, [math.sqrt(example.labelled) for example in batch]
    for start in range(0, len(batch), _MICRO_BATCH):
        inputs = _collate(batch[start : start + _MICRO_BATCH], pad, image)
        labels = inputs.pop("labels")
        means = _mean_losses(model(**inputs).logits, labels)
        loss = (means * means.new_tensor(weights[start : start + _MICRO_BATCH])).sum() / sum(weights)
        loss.backward()
        total += float(loss.detach())
    return total


def _mean_losses(logits: Any, labels: Any) -> Any:
    """Mean cross entropy of each row: (batch, length, vocabulary) and labels (batch, length) give (batch,)."""
    from torch.nn.functional import cross_entropy

    following = labels[:, 1:]
    losses = cross_entropy(logits[:, :-1].transpose(1, 2), following, ignore_index=IGNORED, reduction="none")
    return losses.sum(1) / (following != IGNORED).sum(1)


def _schedule(step: int, config: SFTConfig) -> float:
    progress = step / max(1, config.steps)
    return min(1.0, (step + 1) / config.warmup) * max(0.05, 0.5 * (1 + math.cos(math.pi * progress)))


def _order(count: int, config: SFTConfig) -> Any:
    rng = random.Random(config.seed)
    while True:
        indices = list(range(count))
        rng.shuffle(indices)
        yield from indices


def _collate(examples: Sequence[Example], pad: int, image: int) -> dict[str, Any]:
    import torch

    length = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), length), pad)
    labels = torch.full((len(examples), length), IGNORED)
    attention = torch.zeros((len(examples), length), dtype=torch.long)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        labels[row, : len(example.ids)] = torch.tensor(example.labels)
        attention[row, : len(example.ids)] = 1
    inputs = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": attention,
        "mm_token_type_ids": (ids == image).long(),
    }
    grids = [grid for example in examples for grid in example.grids]
    if grids:
        pixels = np.concatenate([example.pixels for example in examples if example.grids])
        inputs |= {"pixel_values": torch.from_numpy(pixels), "image_grid_thw": torch.tensor(grids)}
    return inputs
