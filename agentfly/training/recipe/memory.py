"""An estimate of the memory of a run, from the sizes of the policy and the configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from agentfly.training.recipe.policy_sizes import PolicySizes
from agentfly.training.recipe.verl_config import FsdpNode, VerlConfig

GIB = 1024**3


@dataclass(frozen=True)
class Memory:
    """Estimated bytes on one accelerator.

    Weights, gradients and Adam's moments are sharded over all accelerators, and kept in the type of
    `fsdp_config.model_dtype` (b bytes: 4 for fp32), from which FSDP2 makes bf16 a layer at a time
    (verl/workers/engine/fsdp/transformer_impl.py:258 and 455; the sum over states is that of ZeRO stage 3, section 5 of
    https://arxiv.org/abs/1910.02054, for states of one type):

        weights   = b x parameters / accelerators
        gradients = b x trained parameters / accelerators
        optimizer = 2 b x trained parameters / accelerators: Adam's two moments
        critic    = the three together, of all parameters, with generalised advantage estimation
        logits    = 8 x ppo_max_token_len_per_gpu x vocabulary: fp32, with their gradient
        layers    = 2 x ppo_max_token_len_per_gpu x hidden size x layers: as gradient checkpointing keeps
        engine    = e x parameters / tensor_model_parallel_size: the rollout engine's weights, e bytes each by
                    `rollout.dtype`
        reference = b x parameters / accelerators, with a KL term: in main memory (transformer_impl.py:459)

    With LoRA, two matrices of rank r stand beside each of the seven linear maps of a layer, taken as square; the policy
    without them is its own reference.

    Attributes:
        weights, gradients, optimizer, critic, logits, layers, engine, reference: see the formulae.
        kept: of these, what the trainer leaves on the accelerator during rollouts: all that is not offloaded.
            Gradients are freed after each update (transformer_impl.py:1138).
        engine_share: part of the accelerator that the rollout engine takes for its weights and its cache, 0 to 1; None
            on a CPU, where the cache has a size of its own.
    """

    weights: float
    gradients: float
    optimizer: float
    critic: float
    logits: float
    layers: float
    engine: float
    reference: float
    kept: float
    engine_share: float | None

    @property
    def update(self) -> float:
        """Bytes on one accelerator while the policy is updated; the rollout engine sleeps."""
        return self.weights + self.gradients + self.optimizer + self.critic + self.logits + self.layers

    def in_words(self) -> list[str]:
        """Return a line for the update and one for the rollout."""
        names = ("weights", "gradients", "optimizer", "critic", "logits", "layers")
        parts = ", ".join(f"{name} {value / GIB:.1f}" for name in names if (value := getattr(self, name)))
        update = f"about {self.update / GIB:.1f} GiB an accelerator during updates ({parts})"
        if self.reference:
            update += f"; the reference has {self.reference / GIB:.1f} GiB of main memory"
        engine, kept = f"{self.engine / GIB:.1f} GiB", f"{self.kept / GIB:.1f} GiB"
        if self.engine_share is None:
            return [update, f"the rollout engine has weights of {engine} beside, and its cache"]
        share = f"{self.engine_share:.0%} of the accelerator, {engine} of it for weights"
        return [update, f"during rollouts the engine takes {share}; the trainer keeps {kept}"]


def estimate_memory(config: VerlConfig, policy: PolicySizes, *, cpu: bool) -> Memory | None:
    """Estimate the memory of a run; None where the number of parameters is not known.

    Args:
        config: complete.
        policy: the sizes of the policy.
        cpu: True for a run without GPUs.
    """
    if policy.parameters is None:
        return None
    parts, tokens = config.actor_rollout_ref, config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu
    model, placed = parts.model, parts.actor.fsdp_config
    parameters, count = policy.parameters, config.trainer.n_gpus_per_node * config.trainer.nnodes
    lora = max(model.lora_rank, model.lora.rank if "lora" in model and model.lora else 0)
    actor = _States.of(placed, parameters, 14 * lora * policy.hidden * policy.layers if lora else parameters, count)
    values = parameters if config.algorithm.adv_estimator == "gae" else 0
    critic = _States.of(config.critic.fsdp, values, values, count)
    uses_reference = (parts.actor.use_kl_loss or config.algorithm.use_kl_in_reward) and not lora
    return Memory(
        weights=actor.weights,
        gradients=actor.gradients,
        optimizer=actor.optimizer,
        critic=critic.weights + critic.gradients + critic.optimizer,
        logits=8.0 * tokens * policy.vocabulary,
        layers=2.0 * tokens * policy.hidden * policy.layers,
        engine=_bytes(parts.rollout.dtype) * parameters / parts.rollout.tensor_model_parallel_size,
        reference=_bytes(parts.ref.fsdp_config.model_dtype) * parameters / count if uses_reference else 0.0,
        kept=actor.kept(placed) + critic.kept(config.critic.fsdp),
        engine_share=None if cpu else parts.rollout.gpu_memory_utilization,
    )


@dataclass(frozen=True)
class _States:
    """Bytes on one accelerator of a model that is trained."""

    weights: float
    gradients: float
    optimizer: float

    @classmethod
    def of(cls, placed: FsdpNode, parameters: int, trained: int, count: int) -> _States:
        each = _bytes(placed.model_dtype)
        return cls(each * parameters / count, each * trained / count, 2 * each * trained / count)

    def kept(self, placed: FsdpNode) -> float:
        return self.weights * (not placed.param_offload) + self.optimizer * (not placed.optimizer_offload)


def _bytes(dtype: str) -> int:
    # "auto" is the type of the checkpoint, which is bf16 with all families.
    return 4 if dtype in ("fp32", "float32", "float") else 2
