"""From examples to tensors: micro-batches of bounded size, padded on the right."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentfly.training.supervised.data.examples import IGNORED, Trainable


@dataclass(frozen=True)
class Collator:
    """Pads examples into the inputs of a model.

    Attributes:
        pad: id of padding.
        image: id of image placeholders.
        token_types: whether the model takes `mm_token_type_ids`.
        device: where the tensors go.
    """

    pad: int
    image: int
    token_types: bool = True
    device: str = "cpu"

    @classmethod
    def of(cls, model: Any, processor: Any, device: str = "cpu") -> Collator:
        """The collator for a model that is not wrapped, and its processor."""
        tokenizer = processor.tokenizer
        takes_types = "mm_token_type_ids" in inspect.signature(model.forward).parameters
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return cls(pad, processor.image_token_id, takes_types, device)

    def __call__(self, examples: Sequence[Trainable]) -> dict[str, Any]:
        """Inputs and labels, shape (examples, longest); images of all examples one after another."""
        import torch

        length = max(len(example.ids) for example in examples)
        ids = torch.full((len(examples), length), self.pad)
        labels = torch.full((len(examples), length), IGNORED)
        attention = torch.zeros((len(examples), length), dtype=torch.long)
        loaded = [example.load() for example in examples]
        for row, example in enumerate(loaded):
            ids[row, : len(example.ids)] = torch.tensor(example.ids)
            labels[row, : len(example.ids)] = torch.tensor(example.labels)
            attention[row, : len(example.ids)] = 1
        inputs = {"input_ids": ids, "labels": labels, "attention_mask": attention}
        if self.token_types:
            inputs["mm_token_type_ids"] = (ids == self.image).long()
        grids = [grid for example in loaded for grid in example.grids]
        if grids:
            pixels = np.concatenate([example.pixels for example in loaded if example.grids])
            inputs |= {"pixel_values": torch.from_numpy(pixels), "image_grid_thw": torch.tensor(grids)}
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}


def micro_batches(batch: Sequence[Trainable], count: int, tokens: int | None) -> Iterator[slice]:
    """Spans of a batch that go through the model together.

    Args:
        batch: sorted by length, so that short and long examples go apart, which saves padding.
        count: examples in a span at most.
        tokens: ids in a span at most, padding included; an example that is longer goes alone. None for no bound.
    """
    start = 0
    while start < len(batch):
        end = start + 1
        while end < min(len(batch), start + count) and (
            tokens is None or (end + 1 - start) * len(batch[end].ids) <= tokens
        ):
            end += 1
        yield slice(start, end)
        start = end
