"""verl builds our replay buffer from its configuration; it polls fast, and proves and observes what it hands on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
from omegaconf import OmegaConf  # noqa: E402
from tensordict import NonTensorData  # noqa: E402
from verl.trainer.ppo.core_algos import get_adv_estimator_fn  # noqa: E402
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync  # noqa: E402
from verl.utils.import_utils import load_extern_object  # noqa: E402

from agentfly.errors import ConfigError, TrainingError  # noqa: E402
from agentfly.training import sampler  # noqa: E402
from agentfly.training.parity import digest  # noqa: E402
from agentfly.training.sampler import POLL_SECONDS, WatchfulReplayBuffer, WatchfulReplayBufferAsync  # noqa: E402

NODE = {"model": "m", "out": "o", "data": {"train": "stickers"}}


def required(**node: Any) -> dict[str, Any]:
    """What verl/trainer/ppo/v1/trainer_base.py:_build_replay_buffer gives, with the values of config/agentfly.yaml."""
    return {
        "trainer_mode": "sync",
        "trainer_config": {},
        "max_off_policy_threshold": 8,
        "max_off_policy_strategy": "drop",
        "sampler_kwargs": OmegaConf.create({"agentfly": {**NODE, **node}}),
        "refill_fn": None,
    }


def test_polls_fast_unless_told_otherwise() -> None:
    buffer_class = load_extern_object("pkg://agentfly.training.sampler", "WatchfulReplayBuffer")
    assert buffer_class(**required()).poll_interval == POLL_SECONDS
    assert buffer_class(**required(), poll_interval=1.0).poll_interval == 1.0


def test_each_trainer_has_its_buffer() -> None:
    assert issubclass(WatchfulReplayBuffer, ReplayBuffer)
    assert issubclass(WatchfulReplayBufferAsync, ReplayBufferAsync)
    with pytest.raises(ConfigError, match="Did you mean 'tool_calls'"):
        WatchfulReplayBufferAsync(**required(health={"tool_call": None}))


def test_the_trainers_process_knows_our_estimator() -> None:
    assert get_adv_estimator_fn("turn_grpo").__module__ == "agentfly.training.turn_advantage"


IDS, MASK = [5, 6, 7, 8], [1, 0]


def told(ids: list[int], mask: list[int]) -> dict[str, Any]:
    facts = {"calls": 1, "malformed": 0, "edits": 1, "no_op_edits": 0, "longest_repeat": 1, "answered": True}
    return {
        "id": "step-1-row-0-0",
        "group": "step-1-row-0",
        "reward": 0.5,
        "parts": {"edit": 0.5},
        "audit": None,
        "facts": facts,
        "intervals": [],
        "digest": digest(ids, mask),
        "cache": None,
    }


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What verl's queue holds of two chains, and what its own buffer samples."""
    data = {
        "extra_fields": [NonTensorData({"agentfly": told(IDS, MASK)})] * 2,
        "input_ids": [torch.tensor(IDS)] * 2,
        "response_mask": [torch.tensor(MASK)] * 2,
    }
    batch = SimpleNamespace(keys=["a_0_0", "a_1_0"], partition_id="train")
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *arguments: (batch, {"training/own": 1.0}))
    monkeypatch.setattr(sampler.tq, "kv_batch_get", lambda **named: data)
    return data


def test_a_batch_comes_with_what_its_chains_tell(queue: dict[str, Any]) -> None:
    batch, metrics = WatchfulReplayBuffer(**required()).sample(1, "train", 2)
    assert batch.keys == ["a_0_0", "a_1_0"]
    assert metrics["training/own"] == 1.0
    assert metrics["reward/mean"] == 0.5
    assert metrics["reward/group/zero_variance"] == 1.0


def test_validation_is_not_watched(queue: dict[str, Any]) -> None:
    assert WatchfulReplayBuffer(**required()).sample(1, "val", 2)[1] == {"training/own": 1.0}


@pytest.mark.parametrize(("field", "value"), [("input_ids", [5, 6, 9, 8]), ("response_mask", [1, 1])])
def test_other_ids_than_those_sampled_end_the_run(queue: dict[str, Any], field: str, value: list[int]) -> None:
    queue[field][1] = torch.tensor(value)
    with pytest.raises(TrainingError, match=r"chain step-1-row-0-0: the trainer has ids \w{16}, the rollout sampled"):
        WatchfulReplayBuffer(**required()).sample(1, "train", 2)


def test_an_empty_batch_ends_the_run(queue: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    empty = SimpleNamespace(keys=[], partition_id="train")
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *arguments: (empty, {}))
    with pytest.raises(TrainingError, match="no chain of step 1"):
        WatchfulReplayBuffer(**required()).sample(1, "train", 2)
