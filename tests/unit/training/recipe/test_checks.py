"""Values that do not fit together are reported before anything starts, with the key to change."""

from __future__ import annotations

from typing import Any

import pytest

from agentfly.errors import ConfigError
from agentfly.training.recipe.checks import check_numbers, check_sizes

OmegaConf = pytest.importorskip("omegaconf").OmegaConf

GOOD: dict[str, Any] = {
    "agentfly": {"audit": None, "credit": None, "evaluator": "reference", "refill": False, "curriculum": False},
    "algorithm": {"adv_estimator": "grpo"},
    "data": {"train_batch_size": 16, "max_prompt_length": 100, "max_response_length": 200},
    "critic": {"enable": None, "ppo_mini_batch_size": 8},
    "reward": {"reward_model": {"enable": False, "enable_resource_pool": False}},
    "trainer": {
        "n_gpus_per_node": 4,
        "nnodes": 1,
        "total_training_steps": 5,
        "v1": {"trainer_mode": "sync", "separate_async": {"parameter_sync_step": 2}},
    },
    "actor_rollout_ref": {
        "actor": {
            "strategy": "fsdp2",
            "ppo_mini_batch_size": 8,
            "ppo_max_token_len_per_gpu": 300,
            "use_dynamic_bsz": True,
        },
        "rollout": {
            "n": 2,
            "nnodes": 0,
            "n_gpus_per_node": 3,
            "checkpoint_engine": {"backend": "nccl"},
            "max_model_len": 300,
            "tensor_model_parallel_size": 2,
            "data_parallel_size": 1,
            "pipeline_model_parallel_size": 1,
        },
    },
}


def config(**changes: Any) -> Any:
    """A good configuration, changed: `a__b=1` is `a.b=1`."""
    made = OmegaConf.create(GOOD)
    for key, value in changes.items():
        OmegaConf.update(made, key.replace("__", "."), value)
    return made


ACTOR, ROLLOUT = "actor_rollout_ref__actor__", "actor_rollout_ref__rollout__"
SEPARATE = {"trainer__v1__trainer_mode": "separate_async", f"{ROLLOUT}nnodes": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"algorithm__adv_estimator": "gae", f"{ROLLOUT}n": 1},
        # Each chain is a micro batch of its own, whatever its length.
        {f"{ACTOR}use_dynamic_bsz": False, f"{ACTOR}ppo_max_token_len_per_gpu": 10},
        # The critic's mini-batch counts where there is a critic; the ranks of another strategy are counted by verl.
        {"critic__ppo_mini_batch_size": 1},
        {"trainer__nnodes": 5, f"{ACTOR}strategy": "megatron"},
        # Two accelerators share a sequence.
        {"trainer__nnodes": 8, f"{ACTOR}fsdp_config": {"ulysses_sequence_parallel_size": 2}},
        # Rollout and training have accelerators of their own.
        {**SEPARATE, f"{ROLLOUT}tensor_model_parallel_size": 3, "trainer__n_gpus_per_node": 4},
        {**SEPARATE, "trainer__v1__trainer_mode": "colocate_async", f"{ROLLOUT}nnodes": 0},
        {"reward__reward_model": {"enable": True, "enable_resource_pool": True}},
        {"agentfly__audit": {"evaluator": "structural"}},
        {"agentfly__evaluator_sleep": True},
        {"agentfly__credit": "end", "algorithm__adv_estimator": "turn_grpo"},
        {"agentfly__refill": True, "agentfly__curriculum": {"candidates": 2}, "data__val_files": "b"},
        {"agentfly__refill": {"most": 2}, "algorithm__adv_estimator": "rloo"},
    ],
)
def test_good_configurations_pass(changes: dict[str, Any]) -> None:
    check_numbers(config(**changes))
    check_sizes(config(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{ACTOR}ppo_mini_batch_size": 5}, r"ppo_mini_batch_size=5 must divide data\.train_batch_size=16"),
        ({f"{ROLLOUT}n": 1}, r"grpo compares samples of one prompt: set actor_rollout_ref\.rollout\.n to 2 or more"),
        ({f"{ROLLOUT}n": 1, "algorithm__adv_estimator": "turn_grpo"}, "turn_grpo compares"),
        ({f"{ACTOR}ppo_max_token_len_per_gpu": 299}, r"ppo_max_token_len_per_gpu=299 must hold one whole chain: 300"),
        ({f"{ROLLOUT}max_model_len": 299}, r"max_model_len=299 is less than a chain may have \(300 tokens\)"),
        ({"trainer__n_gpus_per_node": 3}, "3 accelerators .* cannot hold engines of 2 each"),
        (
            {"trainer__nnodes": 3},
            r"actor\.ppo_mini_batch_size=8 x .*rollout\.n=2 are 16 chains, which 12 ranks .*: make it a multiple of 6",
        ),
        (
            {"algorithm__adv_estimator": "gae", "critic__ppo_mini_batch_size": 3},
            r"critic\.ppo_mini_batch_size=3 x .* are 6 chains, which 4 ranks cannot share: make it a multiple of 2",
        ),
        (
            {f"{ACTOR}use_dynamic_bsz": False, f"{ACTOR}ppo_micro_batch_size_per_gpu": 3},
            r"actor\.ppo_micro_batch_size_per_gpu=3 must divide the 4 chains that each rank has of a mini-batch",
        ),
        (
            {f"{ROLLOUT}log_prob_use_dynamic_bsz": False, f"{ROLLOUT}log_prob_micro_batch_size_per_gpu": 8},
            r"rollout\.log_prob_micro_batch_size_per_gpu=8 must divide the 4 chains",
        ),
        ({f"{ROLLOUT}pipeline_model_parallel_size": 4}, "4 accelerators .* cannot hold engines of 8 each"),
        (SEPARATE, r"3 accelerators \(actor_rollout_ref\.rollout\.n_gpus_per_node .* cannot hold engines of 2 each"),
        ({**SEPARATE, f"{ROLLOUT}nnodes": 0}, "separate_async rolls out on accelerators of its own: set"),
        ({**SEPARATE, f"{ROLLOUT}checkpoint_engine__backend": "naive"}, r"backend to nccl, or with device=cpu to gloo"),
        (
            {**SEPARATE, f"{ACTOR}ppo_mini_batch_size": 4},
            r"parameter_sync_step=2 updates of ppo_mini_batch_size=4 tasks in a step, 8 and not data\.train_batch_size",
        ),
        ({"reward__reward_model__enable": True}, r"set reward\.reward_model\.enable_resource_pool=true"),
        ({"agentfly__audit": {"evaluator": "reference"}}, r"agentfly\.audit\.evaluator must not be the one"),
        (
            {"custom_reward_function": {"path": "x.py"}},
            r"custom_reward_function\.path=x\.py would not be used: .*'module:name'",
        ),
        ({"reward__custom_reward_function": {"path": "x.py"}}, r"reward\.custom_reward_function\.path=x\.py would"),
        (
            {"agentfly__evaluator_sleep": True, "trainer__v1__trainer_mode": "colocate_async"},
            r"evaluator_sleep needs trainer\.v1\.trainer_mode=sync: with colocate_async, chains are scored while",
        ),
        ({"agentfly__credit": "end"}, r"agentfly\.credit is lost with algorithm\.adv_estimator=grpo"),
        (
            {"agentfly__refill": True, "algorithm__adv_estimator": "gae"},
            r"agentfly\.refill replaces groups .* and gae learns from every chain: leave it out, or use one of grpo,",
        ),
        (
            {"agentfly__refill": {}, "agentfly__credit": "end", "algorithm__adv_estimator": "turn_grpo"},
            r"agentfly\.refill looks at the rewards of whole chains, and agentfly\.credit .*: leave one of them out",
        ),
        (
            {"algorithm": {"rollout_correction": {"rollout_rs": "seq_max_k2,token_k1"}, "adv_estimator": "turn_grpo"}},
            r"rollout_rs=seq_max_k2,token_k1 takes single tokens out of a turn",
        ),
        ({"algorithm__filter_groups": {"enable": True}}, r"filter_groups would not be used: set agentfly\.refill=true"),
        (
            {"trainer__v1__sampler": {"sync_refill_failed_groups": True}},
            r"sync_refill_failed_groups would not be used: agentfly\.lost_chains",
        ),
        (
            {"agentfly__curriculum": True, "data__val_files": "a", "data__train_files": "a"},
            r"a validation needs a file of its own: data\.val_files",
        ),
    ],
)
def test_values_that_do_not_fit_are_reported(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_sizes(config(**changes))


def test_everything_is_reported_at_once() -> None:
    with pytest.raises(ConfigError, match=r"ppo_mini_batch_size=5.*; grpo compares.*; .*max_model_len=1 "):
        check_sizes(config(**{f"{ACTOR}ppo_mini_batch_size": 5, f"{ROLLOUT}n": 1, f"{ROLLOUT}max_model_len": 1}))


@pytest.mark.parametrize("value", ["", "four", 0, -1, 1.5, None, True])
def test_a_size_that_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.nnodes must be a whole number of 1 or more, not"):
        check_numbers(config(trainer__nnodes=value))
