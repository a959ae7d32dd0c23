"""Sizes of published checkpoints, for plans of runs whose policy is known by its name alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class PublishedModel:
    """A checkpoint of the hub.

    Attributes:
        model_type: as its `config.json` names it.
        parameters: of the class in transformers, tied weights once. Weights that it leaves out, such as those that
            predict several tokens at once, are not counted.
        hidden, layers, vocabulary: hidden size, number of layers and vocabulary of its language model.
    """

    model_type: str
    parameters: int
    hidden: int
    layers: int
    vocabulary: int


# From https://huggingface.co/NAME/blob/main/config.json; the parameters are those that transformers 5.9 makes of it on
# torch's meta device.
PUBLISHED: Mapping[str, PublishedModel] = MappingProxyType(
    {
        "Qwen/Qwen2.5-VL-3B-Instruct": PublishedModel("qwen2_5_vl", 3_754_622_976, 2048, 36, 151_936),
        "Qwen/Qwen2.5-VL-7B-Instruct": PublishedModel("qwen2_5_vl", 8_292_166_656, 3584, 28, 152_064),
        "Qwen/Qwen3-VL-4B-Instruct": PublishedModel("qwen3_vl", 4_437_815_808, 2560, 36, 151_936),
        "Qwen/Qwen3.5-4B": PublishedModel("qwen3_5", 4_539_265_536, 2560, 32, 248_320),
    }
)
