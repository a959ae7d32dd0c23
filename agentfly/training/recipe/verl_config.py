"""A typed view of the part of verl's configuration that we read; OmegaConf's nodes have no types of their own.

The classes name the fields, not the whole of verl's: its files in verl/trainer/config hold the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class HasSettings(Protocol):
    """A configuration with our section, which `agentfly.training.recipe.compose.settings_of` reads."""

    @property
    def agentfly(self) -> object:
        """Node of the fields of `TrainSettings`."""
        ...


class DataNode(Protocol):
    """`data`; lengths in tokens."""

    train_batch_size: int
    max_prompt_length: int
    max_response_length: int


class CheckpointNode(Protocol):
    """`actor_rollout_ref.actor.checkpoint`."""

    save_contents: Sequence[str]


class PolicyLossNode(Protocol):
    """`actor_rollout_ref.actor.policy_loss`."""

    loss_mode: str


class FsdpNode(Protocol):
    """`fsdp_config` of a model, or `fsdp` of the critic."""

    model_dtype: str
    param_offload: bool
    optimizer_offload: bool


class ActorNode(Protocol):
    """`actor_rollout_ref.actor`."""

    fsdp_config: FsdpNode
    ppo_epochs: int
    ppo_mini_batch_size: int
    ppo_max_token_len_per_gpu: int
    use_dynamic_bsz: bool
    use_kl_loss: bool
    checkpoint: CheckpointNode
    policy_loss: PolicyLossNode


class LoraNode(Protocol):
    """`actor_rollout_ref.model.lora`, which only some of verl's files have."""

    rank: int


class ModelNode(Protocol):
    """`actor_rollout_ref.model`."""

    external_lib: str | Sequence[str] | None
    lora_rank: int
    lora: LoraNode | None

    def __contains__(self, key: object) -> bool: ...


class CheckpointEngineNode(Protocol):
    """`actor_rollout_ref.rollout.checkpoint_engine`."""

    backend: str


class RolloutNode(Protocol):
    """`actor_rollout_ref.rollout`; lengths in tokens, accelerators of the rollout alone."""

    n: int
    dtype: str
    gpu_memory_utilization: float
    nnodes: int
    n_gpus_per_node: int
    checkpoint_engine: CheckpointEngineNode
    calculate_log_probs: bool
    prompt_length: int
    response_length: int
    max_model_len: int
    tensor_model_parallel_size: int
    data_parallel_size: int
    pipeline_model_parallel_size: int


class ReferenceNode(Protocol):
    """`actor_rollout_ref.ref`."""

    fsdp_config: FsdpNode


class PolicyNode(Protocol):
    """`actor_rollout_ref`."""

    actor: ActorNode
    model: ModelNode
    ref: ReferenceNode
    rollout: RolloutNode


class CorrectionNode(Protocol):
    """`algorithm.rollout_correction`."""

    rollout_is: str | None
    rollout_rs: str | None
    bypass_mode: bool
    loss_type: str

    def __getitem__(self, key: str) -> object: ...


class FilterGroupsNode(Protocol):
    """`algorithm.filter_groups`."""

    enable: bool


class AlgorithmNode(Protocol):
    """`algorithm`."""

    adv_estimator: str
    filter_groups: FilterGroupsNode
    rollout_correction: CorrectionNode
    use_kl_in_reward: bool


class CriticNode(Protocol):
    """`critic`."""

    fsdp: FsdpNode
    optim: object
    ppo_epochs: int
    ppo_mini_batch_size: int


class RewardModelNode(Protocol):
    """`reward.reward_model`."""

    enable: bool
    enable_resource_pool: bool


class RewardNode(Protocol):
    """`reward`."""

    reward_model: RewardModelNode


class SeparateAsyncNode(Protocol):
    """`trainer.v1.separate_async`."""

    parameter_sync_step: int


class TrainerModeNode(Protocol):
    """`trainer.v1`."""

    separate_async: SeparateAsyncNode
    trainer_mode: str


class TrainerNode(Protocol):
    """`trainer`; frequencies in steps."""

    n_gpus_per_node: int
    nnodes: int
    total_training_steps: int
    critic_warmup: int
    save_freq: int
    test_freq: int
    max_actor_ckpt_to_keep: int | None
    max_critic_ckpt_to_keep: int | None
    v1: TrainerModeNode


class AuditedNode(Protocol):
    """`agentfly.audit`."""

    evaluator: object


class AgentFlyNode(Protocol):
    """The fields of `agentfly` that are compared with verl's before they are parsed."""

    audit: AuditedNode | str | None
    evaluator: object
    credit: object


class VerlConfig(Protocol):
    """The complete configuration of a run."""

    data: DataNode
    actor_rollout_ref: PolicyNode
    algorithm: AlgorithmNode
    critic: CriticNode
    reward: RewardNode
    trainer: TrainerNode
    agentfly: AgentFlyNode
