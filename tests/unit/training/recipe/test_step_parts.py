"""The parts of a step: those that the configuration has, in verl's order, with the numbers that follow from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfly.training.recipe.settings import DataSettings, TrainSettings
from agentfly.training.recipe.step_parts import parts_of, seconds_in_words

OmegaConf = pytest.importorskip("omegaconf").OmegaConf


def config(**changes: Any) -> Any:
    made = OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": "grpo",
                "use_kl_in_reward": False,
                "rollout_correction": {"bypass_mode": False},
                "filter_groups": {"enable": False},
            },
            "data": {"train_batch_size": 16, "max_prompt_length": 100, "max_response_length": 200},
            "trainer": {
                "critic_warmup": 0,
                "save_freq": 20,
                "test_freq": -1,
                "v1": {"trainer_mode": "sync", "separate_async": {"parameter_sync_step": 4}},
            },
            "critic": {"ppo_mini_batch_size": 16, "ppo_epochs": 2},
            "actor_rollout_ref": {
                "actor": {"use_kl_loss": False, "ppo_mini_batch_size": 4, "ppo_epochs": 1},
                "rollout": {"n": 8, "nnodes": 1, "n_gpus_per_node": 2},
            },
        }
    )
    for key, value in changes.items():
        OmegaConf.update(made, key.replace("__", "."), value)
    return made


def settings(**values: Any) -> TrainSettings:
    return TrainSettings(model="m", out=Path("runs/x"), data=DataSettings(train="stickers"), **values)


def parts(*, given: TrainSettings | None = None, **changes: Any) -> list[str]:
    return list(parts_of(config(**changes), given or settings()).parts)


def test_the_numbers_of_a_step() -> None:
    limits = {"max_turns": 5, "max_tool_calls": 3}
    size, order = parts_of(config(), settings(limits=limits)).in_words()
    assert size == (
        "16 prompts x 8 = 128 chains, each of at most 5 turns, 3 tool calls and 300 tokens; together at most 384 tool "
        "calls and 38,400 tokens"
    )
    assert order == (
        "rollout (generation, tools in the run's own processes and scoring by reference side by side), then log-probs, "
        "then update (4 optimizer steps of 32 chains), then sync of the weights; every 20 steps checkpoint"
    )


def test_a_critic_is_asked_before_it_is_updated_and_before_the_policy() -> None:
    found = parts(algorithm__adv_estimator="gae", algorithm__use_kl_in_reward=True, trainer__critic_warmup=10)
    assert found[1:] == [
        "log-probs",
        "reference",
        "values",
        "critic (2 optimizer steps of 128 chains)",
        "update (4 optimizer steps of 32 chains, from step 10 on)",
        "sync of the weights",
    ]


def test_log_probs_of_the_rollout_are_taken_where_they_are_not_computed_again() -> None:
    assert parts(algorithm__rollout_correction__bypass_mode=True)[1].startswith("update")


def test_an_asynchronous_step_has_rounds_and_accelerators_for_rollouts() -> None:
    found = parts_of(config(trainer__v1__trainer_mode="separate_async"), settings())
    assert "on 2 accelerators of its own, which go on during the rest" in found.parts[0]
    assert "update (1 optimizer step of 32 chains)" in found.parts
    assert found.in_words()[1].startswith("4 rounds of: rollout")
    assert "; then sync of the weights" in found.in_words()[1]
    together = parts_of(config(trainer__v1__trainer_mode="colocate_async"), settings())
    assert "chains that are not done go on in the next step" in together.parts[0]
    assert together.rounds == 1


def test_the_rollout_says_where_tools_and_scores_come_from() -> None:
    judge = {"evaluator": "judge", "model": "m"}
    audit = {"evaluator": "structural", "settings": {"share": 0.25}}
    given = settings(client_nodes=["a:1", "b:1"], evaluator=judge, audit=audit, credit="end")
    [rollout, *_] = parts(given=given, algorithm__filter_groups__enable=True)
    assert "tools on 2 image servers and scoring by judge of each edit with 25% of the chains audited" in rollout
    assert "more chains where prompts whose chains score alike are replaced" in rollout


def test_seconds_are_those_of_the_metrics_alone() -> None:
    metrics = {"timing_s/step": 12.34, "timing_s/update_actor": 4.0, "timing_s/gen": 7.0, "timing_s/other": 1.0}
    assert seconds_in_words(metrics) == "12.3 s = rollout 7.0 + update 4.0"
