"""Train the warm start: a policy folder, in place, by the loop of `agentfly sft`."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from agentfly.training.supervised.data.batches import Collator
from agentfly.training.supervised.data.examples import Trainables
from agentfly.training.supervised.loop import Loop, LoopConfig, Step
from agentfly.training.supervised.optimisers import muon_and_adamw
from agentfly.training.supervised.state import RunFolder

logger = logging.getLogger(__name__)

OnLoss = Callable[[int, float], None]  # step, from 1, and its loss

_SAVE_EVERY = 25  # steps


class SFTConfig(LoopConfig):
    """Settings of the warm start's training.

    Attributes:
        micro_batch: small, so that little of it is padding. Batches drawn by length have even less padding, but each
            teaches something else: second calls were copied from 55 % of held-out sentences instead of 84 %.
        learning_rate: peak for matrices (Muon, scaled to the step size of AdamW).
        vector_learning_rate: the same for embeddings, biases and norms (AdamW).
    """

    labelled_logits: bool = True
    micro_batch: int = 4
    learning_rate: float = 6e-3
    vector_learning_rate: float = 3e-3


def train(
    policy: Path,
    examples: Trainables,
    config: SFTConfig,
    *,
    state: RunFolder | None = None,
    on_step: OnLoss | None = None,
) -> float:
    """Train a policy folder in place on all cores of this process; return the mean loss of the last 20 steps.

    Args:
        policy: Hugging Face folder.
        examples: drawn at random, each epoch in a new order.
        config: see `SFTConfig`.
        state: folder of the checkpoints, from which the training resumes; without it, a stopped training is lost.
        on_step: called with the step (from 1) and its loss.

    Raises:
        ConfigError: `state` holds another run.
    """
    if state is not None:
        state.open({"config": config.model_dump(mode="json"), "examples": len(examples)}, resume=True)
    loop = _load(policy, config)
    begun, done = time.monotonic(), 0 if state is None else state.restore(loop)
    losses = [] if state is None else [line["loss"] for line in state.metrics()]

    def note(step: Step) -> None:
        losses.append(step.loss)
        if state is not None:
            state.log(asdict(step))
            if step.step % _SAVE_EVERY == 0:
                state.save(loop, step.step)
        if on_step is not None:
            on_step(step.step, step.loss)

    with one_thread_an_operation():
        loop.run(examples, note, done=done)
    loop.model.save_pretrained(policy)
    logger.info("supervised: %d steps in %.0f s, loss %.3f", config.steps - done, time.monotonic() - begun, losses[-1])
    return float(np.mean(losses[-20:]))


def _load(policy: Path, config: SFTConfig) -> Loop:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(policy)
    model = AutoModelForImageTextToText.from_pretrained(policy, dtype=torch.float32, attn_implementation="sdpa")
    optimisers = muon_and_adamw(model, config.learning_rate, config.vector_learning_rate)
    workers = max(1, min(cores(), config.batch_size // config.micro_batch))
    return Loop(model, optimisers, config, Collator.of(model, processor), workers=workers)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread_an_operation() -> Iterator[None]:
    """Compute each torch operation on the thread that calls it.

    The operations of a tiny policy take microseconds. Threads that share an operation spin until the last of them is
    done: where other work had one of the cores, single steps took 13 times as long.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
