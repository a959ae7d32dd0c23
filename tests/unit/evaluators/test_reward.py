"""The reward is the sum of its named parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.errors import ConfigError
from agentfly.evaluators import Reward, RewardConfig, Score, compose_reward


def reward(
    score: float,
    answered: bool = True,
    malformed: int = 0,
    failed: int = 0,
    calls: int = 2,
    overlong: int = 0,
    **settings: float,
) -> Reward:
    return compose_reward(
        Score(score),
        answered=answered,
        malformed_calls=malformed,
        failed_calls=failed,
        tool_calls=calls,
        overlong_turns=overlong,
        config=RewardConfig(**settings),
    )


def test_a_clean_chain_earns_its_score() -> None:
    result = reward(87.0)
    assert result.value == pytest.approx(0.87)
    parts = dict(result.parts)
    assert parts.pop("edit") == pytest.approx(0.87)
    assert set(parts.values()) == {0.0}


def test_each_fault_costs_what_the_configuration_says() -> None:
    result = reward(50.0, answered=False, malformed=1, failed=3, calls=5, overlong=2)
    assert result.parts["format"] == pytest.approx(-0.1)
    assert result.parts["failed"] == pytest.approx(-0.02)
    assert result.parts["tool_cost"] == pytest.approx(-0.03)
    assert result.parts["overlong"] == pytest.approx(-0.04)
    assert result.value == pytest.approx(0.31)


def test_a_malformed_call_is_not_paid_for_twice() -> None:
    assert reward(50.0, malformed=2, failed=2).parts["failed"] == 0.0


def test_the_format_penalty_is_bounded() -> None:
    assert reward(50.0, answered=False, malformed=99, failed=99).parts["format"] == pytest.approx(-0.2)


@given(st.floats(0, 100), st.booleans(), st.integers(0, 50), st.integers(0, 50), st.integers(0, 100))
def test_the_value_is_the_clipped_sum(score: float, answered: bool, malformed: int, failed: int, calls: int) -> None:
    result = reward(score, answered, malformed, failed, calls)
    assert -0.2 <= result.value <= 1.0
    assert result.value == pytest.approx(min(max(sum(result.parts.values()), -0.2), 1.0))


def test_weights_are_settings() -> None:
    assert reward(50.0, calls=4, tool_cost=0.1, free_tool_calls=1).value == pytest.approx(0.2)
    with pytest.raises(ConfigError, match=r"format_weight"):
        RewardConfig(format_weight=-1)
