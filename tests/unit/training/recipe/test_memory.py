"""The memory that a run needs, by hand."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import pytest

from agentfly.training.recipe.memory import GIB, Memory, estimate_memory
from agentfly.training.recipe.policy_sizes import PolicySizes

OmegaConf = pytest.importorskip("omegaconf").OmegaConf

SIZES = PolicySizes("m", "qwen3_vl", parameters=1000, hidden=8, layers=3, vocabulary=50)
FSDP = {"model_dtype": "fp32", "param_offload": False, "optimizer_offload": False}


def config(**changes: Any) -> Any:
    made = OmegaConf.create(
        {
            "algorithm": {"adv_estimator": "grpo", "use_kl_in_reward": False},
            "trainer": {"n_gpus_per_node": 4, "nnodes": 2},
            "critic": {"fsdp": FSDP},
            "actor_rollout_ref": {
                "model": {"lora_rank": 0, "lora": {"rank": 0}},
                "actor": {"use_kl_loss": False, "ppo_max_token_len_per_gpu": 300, "fsdp_config": FSDP},
                "ref": {"fsdp_config": FSDP},
                "rollout": {"dtype": "bfloat16", "tensor_model_parallel_size": 2, "gpu_memory_utilization": 0.6},
            },
        }
    )
    for key, value in changes.items():
        OmegaConf.update(made, key.replace("__", "."), value)
    return made


def memory(*, cpu: bool = False, **changes: Any) -> Memory:
    found = estimate_memory(config(**changes), SIZES, cpu=cpu)
    assert found is not None
    return found


def test_a_policy_alone() -> None:
    assert asdict(memory()) == {
        "weights": 4 * 1000 / 8,
        "gradients": 4 * 1000 / 8,
        "optimizer": 8 * 1000 / 8,
        "critic": 0.0,
        "logits": 8 * 300 * 50,
        "layers": 2 * 300 * 8 * 3,
        "engine": 2 * 1000 / 2,
        "reference": 0.0,
        "kept": 12 * 1000 / 8,
        "engine_share": 0.6,
    }
    # 2.0 of weights, gradients and Adam's moments; the engine sleeps meanwhile.
    assert memory().update == 16 * 1000 / 8 + 8 * 300 * 50 + 2 * 300 * 8 * 3


def test_a_critic_has_weights_gradients_and_moments_of_its_own() -> None:
    found = memory(algorithm__adv_estimator="gae")
    assert (found.critic, found.kept) == (16 * 1000 / 8, 2 * 12 * 1000 / 8)
    assert found.update == memory().update + found.critic


@pytest.mark.parametrize("key", ["actor_rollout_ref__actor__use_kl_loss", "algorithm__use_kl_in_reward"])
def test_a_reference_is_in_main_memory(key: str) -> None:
    found = memory(**{key: True})
    assert found.reference == 4 * 1000 / 8
    assert found.update == memory().update


@pytest.mark.parametrize("key", ["lora_rank", "lora__rank"])
def test_lora_trains_little_and_is_its_own_reference(key: str) -> None:
    changes: dict[str, Any] = {f"actor_rollout_ref__model__{key}": 4, "actor_rollout_ref__actor__use_kl_loss": True}
    found = memory(**changes)
    # Seven linear maps a layer, two matrices of rank 4 beside each.
    trained = 7 * 2 * 4 * 8 * 3
    assert (found.weights, found.gradients, found.optimizer) == (4 * 1000 / 8, 4 * trained / 8, 8 * trained / 8)
    assert found.reference == 0.0


def test_what_is_offloaded_is_not_there_during_rollouts() -> None:
    place = "actor_rollout_ref__actor__fsdp_config__"
    assert memory(**{f"{place}param_offload": True}).kept == 8 * 1000 / 8
    assert memory(**{f"{place}param_offload": True, f"{place}optimizer_offload": True}).kept == 0.0


def test_types_count() -> None:
    found = memory(
        actor_rollout_ref__actor__fsdp_config__model_dtype="bf16", actor_rollout_ref__rollout__dtype="float32"
    )
    assert (found.weights, found.optimizer, found.engine) == (2 * 1000 / 8, 4 * 1000 / 8, 4 * 1000 / 2)


def test_a_size_that_is_not_known_is_not_estimated() -> None:
    assert estimate_memory(config(), PolicySizes("m"), cpu=False) is None


def test_the_words_have_update_and_rollout() -> None:
    found = memory(algorithm__use_kl_in_reward=True)
    update, rollout = Memory(**{**asdict(found), "weights": 3 * GIB, "kept": 2 * GIB}).in_words()
    assert re.match(r"about 3\.0 GiB an accelerator during updates \(weights 3\.0, gradients 0\.0, optimizer", update)
    assert "critic" not in update
    assert "the reference has 0.0 GiB of main memory" in update
    assert rollout.startswith("during rollouts the engine takes 60% of the accelerator, 0.0 GiB of it for weights")
    assert rollout.endswith("the trainer keeps 2.0 GiB")
    assert "%" not in memory(cpu=True).in_words()[1]
