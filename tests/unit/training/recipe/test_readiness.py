"""Whatever a run lacks is reported by count and by key, before Ray waits for it in vain."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentfly.agents import Trajectory, reward
from agentfly.errors import ConfigError
from agentfly.evaluation.calibration.record import Record, fingerprint, write_record
from agentfly.evaluators import ReferenceEvaluator
from agentfly.training.recipe import readiness
from agentfly.training.recipe.readiness import (
    Caution,
    check_calibration,
    check_disk,
    check_gpus,
    check_policy,
    check_positions,
    check_sleep,
    checkpoints_bytes,
    checkpoints_to_come,
    positions_of,
)
from agentfly.training.recipe.settings import TrainSettings
from tests.unit.training.recipe.test_policy_sizes import PARAMETERS, policy

__all__ = ["policy"]  # a fixture

OmegaConf = pytest.importorskip("omegaconf").OmegaConf


def config(**changes: Any) -> Any:
    made = OmegaConf.create(
        {
            "algorithm": {"adv_estimator": "grpo"},
            "trainer": {
                "n_gpus_per_node": 8,
                "nnodes": 1,
                "total_training_steps": 100,
                "save_freq": 20,
                "max_actor_ckpt_to_keep": 3,
                "max_critic_ckpt_to_keep": 1,
                "v1": {"trainer_mode": "sync"},
            },
            "actor_rollout_ref": {
                "actor": {"checkpoint": {"save_contents": ["model", "optimizer", "extra", "hf_model"]}},
                "rollout": {"max_model_len": 300, "nnodes": 1, "n_gpus_per_node": 4},
            },
        }
    )
    for key, value in changes.items():
        OmegaConf.update(made, key.replace("__", "."), value)
    return made


def settings(model: Path | str = "m", **values: Any) -> TrainSettings:
    return TrainSettings(model=str(model), out=Path("runs/x"), data={"train": "stickers"}, **values)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("count", "nodes", "words"),
    [
        (0, 1, "this machine has no GPU: train a small policy on the CPU with device=cpu, as recipes/laptop"),
        (1, 1, "this machine has 1 GPU, and trainer.n_gpus_per_node=8 wants 8: lower that, or name a Ray cluster"),
        (8, 4, "this machine has 8 GPUs, and trainer.n_gpus_per_node=8 x trainer.nnodes=4 wants 32"),
    ],
)
def test_too_few_gpus_are_reported(count: int, nodes: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "count_gpus", lambda: count)
    with pytest.raises(ConfigError, match=words):
        check_gpus(config(trainer__nnodes=nodes), settings())


def test_gpus_that_are_hidden_are_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "count_gpus", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ConfigError, match="2 GPUs that CUDA_VISIBLE_DEVICES='0,1' shows, and"):
        check_gpus(config(), settings())


def test_enough_gpus_a_cluster_and_a_cpu_are_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "count_gpus", lambda: 8)
    assert check_gpus(config(), settings()) == "8 GPUs, of which 8 are used"
    with pytest.raises(ConfigError, match=r"=8 with actor_rollout_ref\.rollout\.n_gpus_per_node x nnodes wants 12"):
        check_gpus(config(trainer__v1__trainer_mode="separate_async"), settings())
    monkeypatch.setattr(readiness, "count_gpus", lambda: 0)
    assert check_gpus(config(), settings(device="cpu")) == "no GPU is needed"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert "RAY_ADDRESS=head:6379" in check_gpus(config(trainer__nnodes=4), settings())
    assert "`ray start --num-gpus=8`" in check_gpus(config(trainer__nnodes=4), settings(device="cpu"))


@pytest.mark.parametrize(
    ("given", "positions"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default"}}, 4096),
        ({"max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": 4.0}}, 400),
        ({"max_position_embeddings": 400, "rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, 400),
        (
            {
                "max_position_embeddings": 400,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100},
            },
            400,
        ),
        ({}, None),
    ],
)
def test_positions_are_those_that_the_engine_counts(given: dict[str, Any], positions: int | None) -> None:
    assert positions_of(given) == positions


def test_a_chain_longer_than_the_model_is_reported(policy: Path) -> None:
    assert "may have 300 of the model's unknown number" in check_positions(config(), settings(policy))
    (policy / "config.json").write_text('{"text_config": {"max_position_embeddings": 299}}')
    with pytest.raises(ConfigError, match=r"may have 300 tokens, and the model has positions for 299.*max_prompt_len"):
        check_positions(config(), settings(policy))
    assert "not looked at" in check_positions(config(), settings("owner/name"))


def test_checkpoints_are_counted_as_they_are_kept(policy: Path) -> None:
    whole = 4 + 8 + 2
    assert checkpoints_bytes(config(), policy) == 3 * whole * PARAMETERS
    assert checkpoints_bytes(config(trainer__max_actor_ckpt_to_keep=None), policy) == 5 * whole * PARAMETERS
    assert checkpoints_bytes(config(trainer__total_training_steps=21), policy) == 2 * whole * PARAMETERS
    assert checkpoints_bytes(config(trainer__save_freq=-1), policy) == 0
    assert checkpoints_bytes(config(algorithm__adv_estimator="gae"), policy) == (3 * whole + 12) * PARAMETERS
    contents = {"actor_rollout_ref__actor__checkpoint__save_contents": ["model"]}
    assert checkpoints_bytes(config(**contents), policy) == 3 * 4 * PARAMETERS


def test_a_full_disk_is_reported_before_the_first_checkpoint(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 14 * PARAMETERS))
    assert "of 0.0 GiB that are free" in check_disk(config(), settings(policy))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 14 * PARAMETERS - 1))
    with pytest.raises(ConfigError, match=r"the disk of agentfly\.out=runs/x has 0\.0 GiB free: give another"):
        check_disk(config(), settings(policy))
    assert "not measured" in check_disk(config(), settings("owner/name"))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({"max_gb": 4.0}, "the images of chains up to 3.7 GiB of the rest"),
        ({"max_gb": 40.0}, "the images of chains up to 5.0 GiB of the rest"),
        ({"max_gb": None}, "the images of chains as much as they need of the rest"),
        (False, "that are free"),
    ],
)
def test_the_room_for_images_is_said(policy: Path, monkeypatch: pytest.MonkeyPatch, images: Any, words: str) -> None:
    free = 3 * 14 * PARAMETERS + 5 * 1024**3
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert check_disk(config(), settings(policy, images=images)).endswith(words)


def test_the_room_that_checkpoints_still_need_shrinks_with_each_of_them(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings(policy).model_copy(update={"out": tmp_path})
    now = [0.0]
    monkeypatch.setattr("agentfly.training.recipe.readiness.time.monotonic", lambda: now[0])
    to_come = checkpoints_to_come(config(), run)
    assert to_come() == 3 * 14 * PARAMETERS
    (tmp_path / "checkpoints/global_step_20/actor").mkdir(parents=True)
    (tmp_path / "checkpoints/global_step_20/actor/model.pt").write_bytes(b"x" * 14 * PARAMETERS)
    assert to_come() == 3 * 14 * PARAMETERS  # it does not look again so soon
    now[0] = 31.0
    assert 0 < to_come() <= 2 * 14 * PARAMETERS
    # A policy that is not on this machine has no known size.
    assert checkpoints_to_come(config(), settings("owner/name"))() == 0


def test_a_policy_that_only_the_hub_has_is_reported_where_the_hub_is_not_asked(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # From another folder, `data/warm_start` looks like a name of the hub.
    with pytest.raises(ConfigError, match=r"agentfly\.model=data/nowhere is not on this machine .*give that FOLDER"):
        check_policy(config(), settings("data/nowhere"))
    assert check_policy(config(), settings(policy)) == f"policy {policy}"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert check_policy(config(), settings("owner/name")) == "policy owner/name"


def test_a_reward_that_was_never_calibrated_is_a_caution_that_names_it(tmp_path: Path) -> None:
    for evaluator in ("structural", {"evaluator": "structural"}):
        said = check_calibration(config(), settings(evaluator=evaluator, calibration=tmp_path))
        assert isinstance(said, Caution)
        assert "the reward structural was never calibrated with these settings" in said


def test_the_record_of_a_calibration_says_how_far_the_reward_can_be_trusted(tmp_path: Path) -> None:
    share = {"mean": 0.97, "low": 0.9, "high": 1.0}
    made: dict[str, Any] = {
        "evaluator": {},
        "made": "2026-12-01T10:00:00+00:00",
        "version": "0",
        "accuracy": share,
        "tasks": 24,
    }
    sound = Record(fingerprint("reference"), let_through=[], cautions=[], **made)
    write_record(sound, tmp_path)
    said = check_calibration(config(), settings(calibration=tmp_path))
    assert not isinstance(said, Caution)
    assert said == "the reward reference was calibrated (2026-12-01): 97 % of the pairs in order, no attack let through"
    judge = {"evaluator": "judge", "model": "m", "timeout": 30.0}
    caution = "the attack 'words to the judge' is through on 90 % of the tasks"
    write_record(Record(fingerprint(judge), let_through=["words to the judge"], cautions=[caution], **made), tmp_path)
    said = check_calibration(config(), settings(evaluator={**judge, "timeout": 60.0}, calibration=tmp_path))
    assert isinstance(said, Caution)
    assert said == f"the calibration of the reward judge (2026-12-01) found: {caution}"


@reward
def answered(trajectory: Trajectory) -> float:
    return float(trajectory.final_image is not None)


def test_a_function_of_whole_chains_is_a_caution_too() -> None:
    said = check_calibration(config(), settings(reward=f"{__name__}:answered"))
    assert isinstance(said, Caution)
    assert "agentfly calibrate measures evaluators" in said


@pytest.mark.slow
def test_the_dry_run_asks_the_servers_if_they_can_sleep() -> None:
    pytest.importorskip("torch")
    from tests.unit.training.reward_server import reward_server

    def checked(spec: Any) -> str:
        return check_sleep(config(), settings(evaluator=spec, evaluator_sleep=True))

    with reward_server() as server:
        said = checked({**server.spec, "guard": {"attempts": 1}})
        assert said == f"asleep except during rollouts: the evaluator at {server.base_url}"
        assert server.calls == []  # a run may be using it
    gone = checked(server.spec)
    assert isinstance(gone, Caution)
    assert f"the evaluator at {server.base_url} does not say if it can sleep" in gone
    with reward_server(ReferenceEvaluator()) as server, pytest.raises(ConfigError, match="has no model that could sle"):
        checked(server.spec)
    assert check_sleep(config(), settings()) == "no evaluator sleeps during updates"
