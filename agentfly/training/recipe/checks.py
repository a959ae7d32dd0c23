"""Check the values of a run against each other before anything starts; errors name the key to change."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from agentfly.errors import ConfigError
from agentfly.model_source import check_folder, find_model
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_config import VerlConfig

RAY_ADDRESS = "RAY_ADDRESS"  # names a cluster that runs already
GROUPED = ("grpo", "rloo", "turn_grpo", "grpo_passk", "opo", "gpg", "rloo_vectorized", "grpo_vectorized")


# Numbers that the checks below and `agentfly.training.recipe.compose` compute with; verl does not check their type.
NUMBERS = (
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.rollout.data_parallel_size",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.pipeline_model_parallel_size",
    "actor_rollout_ref.rollout.tensor_model_parallel_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "data.train_batch_size",
    "trainer.n_gpus_per_node",
    "trainer.nnodes",
    "trainer.total_training_steps",
)


def check_numbers(config: VerlConfig) -> None:
    """Check that all sizes are integers of at least 1.

    Raises:
        ConfigError: naming all that are not.
    """
    from omegaconf import OmegaConf

    found = {key: OmegaConf.select(config, key) for key in NUMBERS}
    faults = [
        f"{key} must be a whole number of 1 or more, not {value!r}"
        for key, value in found.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]
    if faults:
        raise ConfigError("; ".join(faults))


def size_faults(config: VerlConfig) -> list[str]:
    """Return all values that do not fit together in a composed configuration that has passed `check_numbers`."""
    faults = (_batch_faults, _rank_faults, _accelerator_faults, _length_faults, _reward_faults, _sampling_faults)
    return [fault for find in faults for fault in find(config)]


def check_sizes(config: VerlConfig) -> None:
    """Check that the values of a composed configuration that has passed `check_numbers` fit together.

    Raises:
        ConfigError: naming all that do not.
    """
    if faults := size_faults(config):
        raise ConfigError("; ".join(faults))


def check_tasks(config: VerlConfig, count: int) -> None:
    """Check that there are tasks for a step: verl leaves out a batch that is not full.

    Args:
        config: complete.
        count: number of tasks.

    Raises:
        ConfigError: there are fewer than a step takes.
    """
    size = config.data.train_batch_size
    if count < size:
        raise ConfigError(
            f"agentfly.data.train has {count} tasks, and a step takes data.train_batch_size={size}: lower that and "
            "actor_rollout_ref.actor.ppo_mini_batch_size, or give more tasks"
        )


def check_model(settings: TrainSettings, *, reach: bool = True) -> None:
    """Check that the policy is a checkpoint folder, or a name on the hub.

    Args:
        settings: of the run.
        reach: True if a policy on the hub must be within reach; a plan needs its name alone.

    Raises:
        ConfigError: it is not.
    """
    # A cluster that runs already may have folders that this machine lacks.
    if RAY_ADDRESS in os.environ:
        return
    check_folder(settings.model, wanted="a policy", option="agentfly.model=", weights=True)
    if reach:
        find_model(settings.model, wanted="a policy", option="agentfly.model=", weights=True)


def rollout_accelerators(config: VerlConfig) -> int:
    """Return the number of accelerators that the rollout has beside the trainer's."""
    rollout = config.actor_rollout_ref.rollout
    return rollout.n_gpus_per_node * rollout.nnodes if config.trainer.v1.trainer_mode == "separate_async" else 0


def _batch_faults(config: VerlConfig) -> Iterator[str]:
    """Yield the faults of the batch and of the group of one prompt."""
    whole, mini = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    if whole % mini:
        yield f"actor_rollout_ref.actor.ppo_mini_batch_size={mini} must divide data.train_batch_size={whole}"
    algorithm, rollout = config.algorithm.adv_estimator, config.actor_rollout_ref.rollout
    if algorithm in GROUPED and rollout.n < 2:
        yield (
            f"{algorithm} compares samples of one prompt: set actor_rollout_ref.rollout.n to 2 or more, or "
            "algorithm.adv_estimator to gae"
        )
    if config.trainer.v1.trainer_mode == "separate_async":
        updates = config.trainer.v1.separate_async.parameter_sync_step
        if whole != updates * mini:  # verl/trainer/ppo/v1/trainer_separate_async.py:59
            yield (
                f"separate_async takes parameter_sync_step={updates} updates of ppo_mini_batch_size={mini} tasks in a "
                f"step, {updates * mini} and not data.train_batch_size={whole}: set "
                f"actor_rollout_ref.actor.ppo_mini_batch_size or trainer.v1.separate_async.parameter_sync_step"
            )


def _accelerator_faults(config: VerlConfig) -> Iterator[str]:
    """Yield the faults of the accelerators, and of the way of the weights from the trainer's to the rollout's."""
    rollout, whose = config.actor_rollout_ref.rollout, "trainer"
    count = config.trainer.n_gpus_per_node * config.trainer.nnodes
    share = rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
    if config.trainer.v1.trainer_mode == "separate_async":
        count, whose = rollout_accelerators(config), "actor_rollout_ref.rollout"
        if count < 1:
            yield (
                "separate_async rolls out on accelerators of its own: set actor_rollout_ref.rollout.nnodes and "
                "n_gpus_per_node, or trainer.v1.trainer_mode=colocate_async to share the trainer's"
            )
        if rollout.checkpoint_engine.backend == "naive":
            yield (
                "separate_async sends weights from process to process: set actor_rollout_ref.rollout.checkpoint_engine."
                "backend to nccl, or with device=cpu to gloo"
            )
    if count % share:
        yield f"{count} accelerators ({whose}.n_gpus_per_node x {whose}.nnodes) cannot hold engines of {share} each"


def _rank_faults(config: VerlConfig) -> Iterator[str]:
    """Yield the mini-batches that the ranks of FSDP cannot share; verl would find out at the first update.

    verl fills a batch that has lost chains up to whole mini-batches (trainer_base.py:1589). It asserts that the ranks
    share those without a rest (workers/engine_workers.py:268), and micro-batches too (workers/engine/utils.py:125).
    """
    from omegaconf import OmegaConf

    def value(key: str) -> Any:
        return OmegaConf.select(config, key)

    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    if value(f"{actor}.strategy") not in ("fsdp", "fsdp2"):
        return
    samples = config.actor_rollout_ref.rollout.n
    accelerators = config.trainer.n_gpus_per_node * config.trainer.nnodes
    ranks = accelerators // (value(f"{actor}.fsdp_config.ulysses_sequence_parallel_size") or 1)
    micro_batches = {actor: [(f"{rollout}.log_prob_micro_batch_size_per_gpu", f"{rollout}.log_prob_use_dynamic_bsz")]}
    if value("critic.enable") or (value("critic.enable") is None and config.algorithm.adv_estimator == "gae"):
        micro_batches["critic"] = []
    for node, others in micro_batches.items():
        mini = value(f"{node}.ppo_mini_batch_size")
        if mini * samples % ranks:
            yield (
                f"{node}.ppo_mini_batch_size={mini} x {rollout}.n={samples} are {mini * samples} chains, which {ranks} "
                f"ranks cannot share: make it a multiple of {ranks // math.gcd(ranks, samples)}"
            )
            continue
        share = mini * samples // ranks
        for key, dynamic in [(f"{node}.ppo_micro_batch_size_per_gpu", f"{node}.use_dynamic_bsz"), *others]:
            if not value(dynamic) and (micro := value(key)) and share % micro:
                yield f"{key}={micro} must divide the {share} chains that each rank has of a mini-batch"


def _length_faults(config: VerlConfig) -> Iterator[str]:
    """Yield the lengths that a whole chain does not fit in."""
    longest = config.data.max_prompt_length + config.data.max_response_length
    actor, length = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.max_model_len
    if actor.use_dynamic_bsz and actor.ppo_max_token_len_per_gpu < longest:
        yield (
            f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={actor.ppo_max_token_len_per_gpu} must hold one whole "
            f"chain: {longest} tokens (data.max_prompt_length + data.max_response_length) or more"
        )
    if length < longest:
        yield f"actor_rollout_ref.rollout.max_model_len={length} is less than a chain may have ({longest} tokens)"


def _reward_faults(config: VerlConfig) -> Iterator[str]:
    """Yield the faults of the reward: its evaluator, the audit of that, its credit, and verl's own ways to it."""
    from omegaconf import OmegaConf

    model, audit, algorithm = config.reward.reward_model, config.agentfly.audit, config.algorithm.adv_estimator
    if model.enable and not model.enable_resource_pool:
        yield (
            "reward.reward_model shares the trainer's accelerators, so chains could not be scored while others run: "
            "set reward.reward_model.enable_resource_pool=true, or serve the judge apart, as agentfly.evaluator"
        )
    if audit is not None and not isinstance(audit, str) and audit.evaluator == config.agentfly.evaluator:
        yield "agentfly.audit.evaluator must not be the one that gives the reward (agentfly.evaluator)"
    mode = config.trainer.v1.trainer_mode
    if OmegaConf.select(config, "agentfly.evaluator_sleep") and mode != "sync":
        yield (
            f"agentfly.evaluator_sleep needs trainer.v1.trainer_mode=sync: with {mode}, chains are scored while the "
            "policy is updated"
        )
    if config.agentfly.credit is not None and algorithm in ("grpo", "rloo"):
        yield (
            f"agentfly.credit is lost with algorithm.adv_estimator={algorithm}, which adds up each chain's rewards: "
            "use turn_grpo, gae or reinforce_plus_plus"
        )
    if OmegaConf.select(config, "reward.reward_manager.name") not in (None, "AgentFlyRewardManager"):
        return  # verl's own managers call the function
    own = ("custom_reward_function.path", "reward.custom_reward_function.path")
    if key := next((key for key in own if OmegaConf.select(config, key) is not None), None):
        yield (
            f"{key}={OmegaConf.select(config, key)} would not be used: chains are scored by agentfly.evaluator, which "
            "takes an evaluator of your own as 'module:name'"
        )


def _sampling_faults(config: VerlConfig) -> Iterator[str]:
    """Yield the faults of the choice of tasks and groups."""
    from omegaconf import OmegaConf

    refill, algorithm = OmegaConf.select(config, "agentfly.refill"), config.algorithm.adv_estimator
    if refill not in (None, False) and algorithm not in GROUPED:
        yield (
            f"agentfly.refill replaces groups from which nothing is learned, and {algorithm} learns from every chain: "
            f"leave it out, or use one of {', '.join(GROUPED)}"
        )
    if refill not in (None, False) and config.agentfly.credit is not None:
        yield (
            "agentfly.refill looks at the rewards of whole chains, and agentfly.credit learns from those of turns, "
            "which may differ in a group of equal rewards: leave one of them out"
        )
    rejected = str(OmegaConf.select(config, "algorithm.rollout_correction.rollout_rs") or "")
    if algorithm == "turn_grpo" and "token_" in rejected:
        yield (
            f"algorithm.rollout_correction.rollout_rs={rejected} takes single tokens out of a turn, and turn_grpo "
            "would take each for the end of it: reject whole chains (seq_mean_k1, seq_max_k2, …)"
        )
    # verl hands these settings to its own buffer alone (verl/trainer/ppo/v1/trainer_base.py:162).
    if OmegaConf.select(config, "algorithm.filter_groups.enable"):
        yield "algorithm.filter_groups would not be used: set agentfly.refill=true in its place"
    if OmegaConf.select(config, "trainer.v1.sampler.sync_refill_failed_groups"):
        yield (
            "trainer.v1.sampler.sync_refill_failed_groups would not be used: agentfly.lost_chains says what becomes of "
            "groups that lost chains"
        )
    if OmegaConf.select(config, "agentfly.curriculum") in (None, False):
        return
    if OmegaConf.select(config, "data.val_files") == OmegaConf.select(config, "data.train_files"):
        yield "agentfly.curriculum draws from data.train_files, so a validation needs a file of its own: data.val_files"
