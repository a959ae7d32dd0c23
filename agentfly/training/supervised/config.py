"""Settings of `agentfly sft`, from a YAML file, `key=value` pairs, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agentfly.agents.spec import Named
from agentfly.errors import ConfigError
from agentfly.files import parse_yaml, read_mapping
from agentfly.settings import OutputPath, Settings
from agentfly.training.supervised.data.config import DataConfig
from agentfly.training.supervised.loop import LoopConfig

_LISTS = ("trajectories", "openai", "targets")  # settings that may be given as one text


class LoraConfig(Settings):
    """Low-rank adapters (Hu et al., 2021, https://arxiv.org/abs/2106.09685).

    Attributes:
        rank: of the adapters; 0 trains all weights instead.
        alpha: their output is scaled by alpha / rank.
        dropout: on their input.
        targets: names of the linear layers of the language model that get one.
    """

    rank: int = Field(0, ge=0)
    alpha: float = 32.0
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class TrainingConfig(Settings):
    """Settings of the optimisation.

    Attributes:
        epochs: passes over the training samples, unless `steps` is given.
        steps: optimiser steps.
        batch_size: samples of a step, independent of what fits into memory at once.
        micro_batch_tokens: ids that go through the model at once, padding included.
        learning_rate: peak of AdamW; None is 1e-5 for all weights and 2e-4 for adapters.
        weight_decay: of matrices.
        warmup: share of the steps; then cosine to 5 %.
        max_grad_norm: norm that gradients are clipped to.
        gradient_checkpointing: compute activations twice instead of keeping them.
        device: "auto" takes the GPU when there is one.
        dtype: "auto" computes in bfloat16 on a GPU and in float32 on a CPU.
        evaluate_every: steps between held-out losses; the last step has one too.
        save_every: steps between checkpoints; the last step has one too.
        seed: of the order, the held-out tasks, the demonstrations and the adapters.
    """

    epochs: float = Field(1.0, gt=0)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(16, ge=1)
    micro_batch_tokens: int = Field(8192, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    weight_decay: float = 0.0
    warmup: float = Field(0.05, ge=0, le=1)
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    evaluate_every: int = Field(50, ge=1)
    save_every: int = Field(50, ge=1)
    seed: int = 0

    def loop(self, samples: int) -> LoopConfig:
        """Return the settings of the loop for a number of training samples."""
        steps = self.steps if self.steps is not None else max(1, round(self.epochs * samples / self.batch_size))
        return LoopConfig(
            steps=steps,
            batch_size=self.batch_size,
            warmup=max(1, round(self.warmup * steps)),
            max_grad_norm=self.max_grad_norm,
            seed=self.seed,
            micro_batch=self.batch_size,
            micro_batch_tokens=self.micro_batch_tokens,
            label_power=1.0,
            labelled_logits=True,
        )


class SupervisedConfig(Settings):
    """One run of `agentfly sft`.

    Attributes:
        model: checkpoint folder or hub name of a model with images.
        out: folder of the run.
        template: chat template, by name or path; the checkpoint's own when None.
        agent, tools: see `agentfly.agents.spec`; they play the demonstrations, and the policy's card remembers them.
        data: see `DataConfig`.
        lora: see `LoraConfig`.
        training: see `TrainingConfig`.
    """

    model: str
    out: OutputPath
    template: str | None = None
    agent: Named | None = None
    tools: tuple[Named, ...] | None = None
    data: DataConfig = DataConfig()
    lora: LoraConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig()


def read_config(words: Sequence[str]) -> SupervisedConfig:
    """Read the configuration of a command line.

    Args:
        words: YAML files and `key=value` pairs in any order; keys are dotted, values are YAML. Later words win.

    Raises:
        ConfigError: a file cannot be read, a word is neither, or a key or value is wrong.
    """
    found: dict[str, Any] = {}
    for word in words:
        dotted, equals, text = word.partition("=")
        if equals:
            node = parse_yaml(text, repr(word))
            for key in reversed(dotted.split(".")):
                node = {key: node}
            _merge(found, node)
        elif word.endswith((".yaml", ".yml")):
            _merge(found, read_mapping(Path(word), "settings file", "model: FOLDER"))
        else:
            raise ConfigError(f"{word!r} is neither a .yaml file nor key=value, such as training.epochs=2")
    missing = [name for name in ("model", "out") if name not in found]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} not given: say {' '.join(f'{name}=FOLDER' for name in missing)}")
    parts: dict[str, type[Settings]] = {"data": DataConfig, "lora": LoraConfig, "training": TrainingConfig}
    for name, kind in parts.items():
        if name in found:
            node = found[name]
            if not isinstance(node, dict):
                raise ConfigError(f"{name} has settings of its own, such as {name}.{next(iter(kind.model_fields))}=…")
            # One text stands for a list of one.
            lists = {key: [node[key]] for key in _LISTS if isinstance(node.get(key), str)}
            found[name] = kind(**(node | lists))
    return SupervisedConfig(**found)


def _merge(found: dict[str, Any], more: Mapping[str, object]) -> None:
    """Add settings to others in place, mapping by mapping; `more` wins."""
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(found.get(key), dict):
            _merge(found[key], value)
        else:
            found[key] = value
