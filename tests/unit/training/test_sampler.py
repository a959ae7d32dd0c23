"""verl builds our replay buffer from its configuration, and it polls fast."""

from __future__ import annotations

import pytest

pytest.importorskip("verl")
from verl.utils.import_utils import load_extern_object

from agentfly.training.sampler import POLL_SECONDS


def test_polls_fast_unless_told_otherwise() -> None:
    # The way of verl/trainer/ppo/v1/trainer_base.py:_build_replay_buffer, with the value of config/agentfly.yaml.
    buffer_class = load_extern_object("pkg://agentfly.training.sampler", "FastReplayBuffer")
    required = {
        "trainer_mode": "sync",
        "trainer_config": {},
        "max_off_policy_threshold": 8,
        "max_off_policy_strategy": "drop",
        "sampler_kwargs": {},
        "refill_fn": None,
    }
    assert buffer_class(**required).poll_interval == POLL_SECONDS
    assert buffer_class(**required, poll_interval=1.0).poll_interval == 1.0
