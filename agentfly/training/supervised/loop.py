"""Run supervised training: batches in a seeded order, gradients over micro-batches, clipping, schedule.

It resumes exactly: the order of the examples depends only on the seed, and a step only on the steps before it.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentfly.errors import TrainingError
from agentfly.settings import Settings
from agentfly.training.supervised.data.batches import Collator, micro_batches
from agentfly.training.supervised.data.examples import IGNORED, Trainable, Trainables

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class LoopConfig(Settings):
    """Settings of the loop.

    Attributes:
        steps: optimiser steps.
        batch_size: examples of a step.
        warmup: steps of linear warm-up, then cosine to 5 %.
        max_grad_norm: norm that gradients are clipped to.
        seed: of the order of examples.
        micro_batch: examples that go through the model together, at most.
        micro_batch_tokens: their ids, padding included, at most; None for no bound.
        label_power: the weight of an example is its number of labels to this power: 1 makes the loss a mean over
            tokens, 0 a mean over examples.
        labelled_logits: compute logits only where a label follows. It saves memory; the last bits differ.
    """

    steps: int = 300
    batch_size: int = 32
    warmup: int = 30
    max_grad_norm: float = 1.0
    seed: int = 0
    micro_batch: int = 8
    micro_batch_tokens: int | None = None
    label_power: float = 0.5
    labelled_logits: bool = False


@dataclass(frozen=True)
class Step:
    """Figures of one step.

    Attributes:
        step: from 1.
        loss: of the batch, weighted by `LoopConfig.label_power`.
        learning_rate: of the first group of weights.
        grad_norm: before clipping.
        tokens: ids of the batch.
        labelled: ids of the batch with loss.
        seconds: of the step.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    labelled: int
    seconds: float


OnStep = Callable[[Step], None]


@dataclass
class Loop:
    """A model in training.

    Attributes:
        model: on its device.
        optimisers: each with its peak learning rate.
        config: see `LoopConfig`.
        collate: see `Collator`.
        autocast: compute in bfloat16 where that is safe.
        workers: threads that compute micro-batches side by side. On a CPU two threads with a micro-batch each are
            faster than one micro-batch on two cores, and do not wait for each other at every operation. The result
            does not depend on their number. Each thread holds gradients of its own.
    """

    model: PreTrainedModel
    optimisers: Sequence[tuple[torch.optim.Optimizer, float]]
    config: LoopConfig
    collate: Collator
    autocast: bool = False
    workers: int = 1

    def run(self, samples: Trainables, on_step: OnStep | None = None, *, done: int = 0) -> None:
        """Take the steps that are left.

        Args:
            samples: drawn at random, each epoch in a new order.
            on_step: called after each step.
            done: steps of earlier runs, which are not taken again.

        Raises:
            TrainingError: the loss or the gradient is not finite.
        """
        config, order = self.config, _order(len(samples), self.config.seed)
        for _ in range(done * config.batch_size):
            next(order)
        self.model.train()
        for step in range(done, config.steps):
            batch = sorted(
                (samples[next(order)] for _ in range(config.batch_size)), key=lambda example: len(example.ids)
            )
            taken = self._step(step, batch)
            if on_step is not None:
                on_step(taken)

    def _step(self, step: int, batch: Sequence[Trainable]) -> Step:
        import torch

        begun = time.monotonic()
        loss = self.backward(batch)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            raise TrainingError(f"step {step + 1}: loss {loss}, gradient {float(norm)}; lower the learning rate")
        scale = schedule(step, self.config)
        for optimiser, peak in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = peak * scale
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        tokens, labelled = sum(len(e.ids) for e in batch), sum(e.labelled for e in batch)
        rate = self.optimisers[0][1] * scale
        return Step(step + 1, loss, rate, float(norm), tokens, labelled, time.monotonic() - begun)

    def backward(self, batch: Sequence[Trainable]) -> float:
        """Compute the gradient of the batch's loss and return the loss: a weighted mean of the examples' mean losses.

        With weights proportional to the number of labels, examples with one label (a look) would hardly count beside
        conversations with thirty; with equal weights, the conversations would hardly count. The weight is the number
        of labels to the power `LoopConfig.label_power`, which lies between the two.
        """
        weights = [float(example.labelled) ** self.config.label_power for example in batch]
        spans = list(micro_batches(batch, self.config.micro_batch, self.config.micro_batch_tokens))

        def loss_of(span: slice) -> torch.Tensor:
            means, _ = self._losses(batch[span])
            return (means * means.new_tensor(weights[span])).sum() / sum(weights)

        if self.workers > 1:
            return self._backward_in_threads(loss_of, spans)
        total = 0.0
        for span in spans:
            loss = loss_of(span)
            loss.backward()
            total += float(loss.detach())
        return total

    def _backward_in_threads(self, loss_of: Callable[[slice], torch.Tensor], spans: Sequence[slice]) -> float:
        """Compute gradients of several spans at once, and add them up in the order of the spans."""
        import torch

        trained = [weight for weight in self.model.parameters() if weight.requires_grad]

        def gradients(span: slice) -> tuple[float, Sequence[torch.Tensor | None]]:
            loss = loss_of(span)
            return float(loss.detach()), torch.autograd.grad(loss, trained, allow_unused=True)

        total = 0.0
        with ThreadPoolExecutor(self.workers) as pool:
            # The longest first, so that no thread is busy with a long one at the end.
            for loss, found in pool.map(gradients, reversed(spans)):
                total += loss
                for weight, gradient in zip(trained, found, strict=True):
                    if gradient is not None:
                        weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        return total

    def evaluate(self, samples: Sequence[Trainable]) -> float:
        """Return the mean loss over all labels of `samples`, without a gradient."""
        import torch

        ordered, total, labels = sorted(samples, key=lambda example: len(example.ids)), 0.0, 0
        self.model.eval()
        with torch.no_grad():
            for span in micro_batches(ordered, self.config.micro_batch, self.config.micro_batch_tokens):
                means, counts = self._losses(ordered[span])
                total += float((means * counts).sum())
                labels += int(counts.sum())
        self.model.train()
        return total / labels

    def _losses(self, examples: Sequence[Trainable]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean cross entropy and number of labels of each example, both of shape (examples,)."""
        import torch
        from torch.nn.functional import cross_entropy

        inputs = self.collate(examples)
        following = inputs.pop("labels")[:, 1:]
        with torch.autocast(self.collate.device, torch.bfloat16) if self.autocast else contextlib.nullcontext():
            if self.config.labelled_logits:
                kept = (following != IGNORED).any(0).nonzero().squeeze(1)
                logits = self.model(**inputs, use_cache=False, logits_to_keep=kept).logits
                following = following[:, kept]
            else:
                logits = self.model(**inputs, use_cache=False).logits[:, :-1]
            losses = cross_entropy(logits.transpose(1, 2), following, ignore_index=IGNORED, reduction="none")
            counts = (following != IGNORED).sum(1)
            return losses.sum(1) / counts, counts


def schedule(step: int, config: LoopConfig) -> float:
    """Return the share of the peak learning rate at a step.

    Args:
        step: from 0.
        config: with the number of steps and of warm-up steps.
    """
    progress = step / max(1, config.steps)
    return min(1.0, (step + 1) / max(1, config.warmup)) * max(0.05, 0.5 * (1 + math.cos(math.pi * progress)))


def _order(count: int, seed: int) -> Iterator[int]:
    """Yield indices for ever, each epoch in a new order."""
    rng = random.Random(seed)
    while True:
        indices = list(range(count))
        rng.shuffle(indices)
        yield from indices
