"""Turn examples into tensors: micro-batches of bounded size, padded on the right."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agentfly.training.supervised.data.examples import IGNORED, Trainable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin


@dataclass(frozen=True)
class Collator:
    """Callable that pads examples into the inputs of a model.

    Attributes:
        pad: id of padding.
        image: id of image placeholders.
        token_types: True for a model that takes `mm_token_type_ids`.
        device: of the tensors.
    """

    pad: int
    image: int
    token_types: bool = True
    device: str = "cpu"

    @classmethod
    def of(cls, model: PreTrainedModel, processor: ProcessorMixin, device: str = "cpu") -> Collator:
        """Return the collator of a model.

        Args:
            model: without adapters around it.
            processor: of the model.
            device: of the tensors.
        """
        tokenizer = processor.tokenizer
        takes_types = "mm_token_type_ids" in inspect.signature(model.forward).parameters
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return cls(pad, processor.image_token_id, takes_types, device)

    def __call__(self, examples: Sequence[Trainable]) -> dict[str, torch.Tensor]:
        """Return inputs and labels, shape (examples, longest); images of all examples one after another."""
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
    """Yield the spans of a batch that go through the model together.

    Args:
        batch: sorted by length, so that examples of a span need little padding.
        count: examples in a span at most.
        tokens: ids in a span at most, padding included; a longer example goes alone. None for no bound.
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
