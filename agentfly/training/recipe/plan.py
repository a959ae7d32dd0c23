"""The plan of a run: its sizes and an estimate of its memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_config import VerlConfig

GIB = 1024**3
OPTIMISED_BYTES = 16  # fp32 weight 4, gradient 4, and Adam's two moments 8
FROZEN_BYTES = 2  # bf16


@dataclass(frozen=True)
class Memory:
    """Estimated bytes on one accelerator; None where the weights are not on this machine.

        optimised = 16 x trained parameters / accelerators + 2 x frozen parameters / accelerators
        critic    = 16 x parameters / accelerators, with generalised advantage estimation
        reference = 2 x parameters / accelerators, with a KL term
        rollout   = 2 x parameters / tensor_model_parallel_size: the weights; its cache takes the rest of
                    gpu_memory_utilization
        logits    = 8 x ppo_max_token_len_per_gpu x vocabulary: fp32, with their gradient
        layers    = 2 x ppo_max_token_len_per_gpu x hidden size x layers: as gradient checkpointing keeps

    Attributes:
        optimised, critic, reference, rollout, logits, layers: see the formulae.
    """

    optimised: float
    critic: float
    reference: float
    rollout: float
    logits: float
    layers: float

    @property
    def total(self) -> float:
        """Bytes on one accelerator at once, in a colocated run without offloading."""
        return self.optimised + self.critic + self.reference + self.rollout + self.logits + self.layers


@dataclass(frozen=True)
class Plan:
    """The work that a run would do.

    Attributes:
        model, tasks, out: the policy, the source of the tasks, and the folder of the run.
        algorithm: advantage estimator.
        steps: training steps.
        chains: chains of a step.
        tokens: tokens of a step at most.
        sampling: choice of tasks and groups, where they are not simply taken in turn.
        accelerators: number and kind.
        parameters: of the policy, None when its weights are not on this machine.
        memory: see `Memory`.
    """

    model: str
    tasks: str
    out: Path
    algorithm: str
    steps: int
    chains: int
    tokens: int
    sampling: str | None
    accelerators: str
    parameters: int | None
    memory: Memory | None

    def lines(self) -> Iterator[str]:
        """Yield the lines for a console."""
        yield f"model       {self.model}" + (f", {self.parameters / 1e6:,.1f} M parameters" if self.parameters else "")
        yield f"tasks       {self.tasks}"
        yield f"algorithm   {self.algorithm}, {self.steps} steps"
        yield f"a step      {self.chains} chains, {self.tokens:,} tokens at most"
        if self.sampling:
            yield f"sampling    {self.sampling}"
        yield f"runs on     {self.accelerators}"
        if self.memory is None:
            yield "memory      not estimated: the weights are not on this machine"
        else:
            parts = ", ".join(f"{name} {value / GIB:.1f}" for name, value in vars(self.memory).items() if value)
            yield f"memory      about {self.memory.total / GIB:.1f} GiB an accelerator ({parts})"
        yield f"writes to   {self.out}"


def plan_of(config: VerlConfig, settings: TrainSettings) -> Plan:
    """Return the plan of a run.

    Args:
        config: complete.
        settings: its section `agentfly`.
    """
    trainer, data, rollout = config.trainer, config.data, config.actor_rollout_ref.rollout
    chains = data.train_batch_size * rollout.n
    count = trainer.n_gpus_per_node * trainer.nnodes
    validation = settings.data.validation or "the first of them"
    sizes = count_parameters(Path(settings.model))
    return Plan(
        model=settings.model,
        tasks=f"{settings.data.train} (validation: {validation})",
        out=settings.out,
        algorithm=config.algorithm.adv_estimator,
        steps=int(trainer.total_training_steps),
        chains=chains,
        tokens=chains * (data.max_prompt_length + data.max_response_length),
        sampling=_sampling(config, settings),
        accelerators=f"{count} x {settings.device}, {trainer.v1.trainer_mode} trainer",
        parameters=sizes,
        memory=None if sizes is None else _memory(config, Path(settings.model), sizes, count),
    )


def _sampling(config: VerlConfig, settings: TrainSettings) -> str | None:
    words = []
    if (refill := settings.refill) is not None:
        most = math.ceil(refill.most * config.data.train_batch_size)
        words.append(f"groups of equal rewards are replaced, up to {most} a step")
    if (curriculum := settings.curriculum) is not None:
        words.append(f"the most instructive of {curriculum.candidates} tasks is drawn")
    return "; ".join(words) or None


def count_parameters(folder: Path) -> int | None:
    """Return the number of parameters of a checkpoint; None where the folder has no safetensors files.

    Reads the headers of the files alone (https://github.com/huggingface/safetensors#format).
    """
    files, total = sorted(folder.glob("*.safetensors")), 0
    for path in files:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total if files else None


def _memory(config: VerlConfig, folder: Path, parameters: int, count: int) -> Memory:
    model, actor = config.actor_rollout_ref.model, config.actor_rollout_ref.actor
    text = text_config(folder)
    lora = max(model.lora_rank, model.lora.rank if "lora" in model and model.lora else 0)
    hidden, layers = text.get("hidden_size", 0), text.get("num_hidden_layers", 0)
    # Two matrices of rank r beside each of the seven linear maps of a layer, taken as square.
    trained = 14 * lora * hidden * layers if lora else parameters
    tokens = actor.ppo_max_token_len_per_gpu
    uses_reference = (actor.use_kl_loss or config.algorithm.use_kl_in_reward) and not lora
    return Memory(
        optimised=(OPTIMISED_BYTES * trained + FROZEN_BYTES * (parameters if lora else 0)) / count,
        critic=OPTIMISED_BYTES * parameters / count if config.algorithm.adv_estimator == "gae" else 0.0,
        reference=FROZEN_BYTES * parameters / count if uses_reference else 0.0,
        rollout=FROZEN_BYTES * parameters / config.actor_rollout_ref.rollout.tensor_model_parallel_size,
        logits=8.0 * tokens * text.get("vocab_size", 0),
        layers=2.0 * tokens * hidden * layers,
    )


def text_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a checkpoint's language model, with the fields that it shares with other parts."""
    whole: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {**whole, **(whole.get("text_config") or {})}
