"""Supervised training of the warm start: a policy folder, trained in place by the loop that `agentfly sft` uses too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentfly.training.supervised.batches import Collator
from agentfly.training.supervised.examples import IGNORED, Example, make_example
from agentfly.training.supervised.loop import Loop, LoopConfig, Step
from agentfly.training.supervised.optimisers import muon_and_adamw

__all__ = ["IGNORED", "Example", "SFTConfig", "make_example", "train"]

logger = logging.getLogger(__name__)


class SFTConfig(LoopConfig):
    """Settings of the warm start's training.

    Attributes:
        learning_rate: peak for matrices (Muon, scaled to the step size of AdamW).
        vector_learning_rate: the same for embeddings, biases and norms (AdamW).
    """

    learning_rate: float = 6e-3
    vector_learning_rate: float = 3e-3


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
    optimisers = muon_and_adamw(model, config.learning_rate, config.vector_learning_rate)
    losses: list[float] = []
    begun = time.monotonic()

    def note(step: Step) -> None:
        losses.append(step.loss)
        if on_step is not None:
            on_step(step.step, step.loss)

    Loop(model, optimisers, config, Collator.of(model, processor)).run(examples, note)
    model.save_pretrained(policy)
    logger.info("supervised: %d steps in %.0f s, loss %.3f", config.steps, time.monotonic() - begun, losses[-1])
    return float(np.mean(losses[-20:]))
