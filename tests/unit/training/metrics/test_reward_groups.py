"""Statistics of a batch: every part by name, groups that teach nothing marked."""

from __future__ import annotations

import pytest

from agentfly.errors import ConfigError
from agentfly.evaluators import Reward
from agentfly.training.metrics import group_statistics, reward_metrics
from agentfly.training.metrics.reward_groups import replaced_metrics


def test_groups_are_kept_apart_wherever_their_chains_are() -> None:
    found = group_statistics([0.2, 0.5, 0.6, 0.5], ["a", "b", "a", "b"])
    assert [(group.group, group.size, group.zero_variance) for group in found] == [("a", 2, False), ("b", 2, True)]
    assert (found[0].mean, found[0].std, found[0].low, found[0].high) == pytest.approx((0.4, 0.2, 0.2, 0.6))


def test_rounding_is_no_variance_and_one_chain_has_none() -> None:
    assert group_statistics([0.3, 0.1 + 0.2], ["a", "a"])[0].zero_variance
    assert group_statistics([0.3], ["a"])[0].zero_variance


def test_metrics_name_every_part_and_the_kinds_of_groups() -> None:
    values = [0.2, 0.6, 0.95, 0.95, 0.0, 0.0]
    rewards = [Reward(value, {"edit": value, **({"format": -0.1} if value == 0.2 else {})}) for value in values]
    metrics = reward_metrics(rewards, [1, 1, 2, 2, 3, 3])
    assert metrics["reward/mean"] == pytest.approx(0.45)
    assert metrics["reward/part/edit"] == pytest.approx(0.45)
    assert metrics["reward/part/format"] == pytest.approx(-0.1 / 6)
    assert metrics["reward/group/count"] == 3
    assert metrics["reward/group/std_within"] == pytest.approx(0.2 / 3)
    assert metrics["reward/group/zero_variance"] == pytest.approx(2 / 3)
    assert metrics["reward/group/all_best"] == metrics["reward/group/all_worst"] == pytest.approx(1 / 3)


def test_replaced_groups_are_counted_by_kind() -> None:
    replaced = group_statistics([0.95, 0.95, 0.0, 0.0, 0.5, 0.5], [1, 1, 2, 2, 3, 3])
    assert replaced_metrics(replaced, 5) == {
        "refill/total_groups": 3,
        "refill/share": 0.375,
        "refill/all_best": pytest.approx(1 / 3),
        "refill/all_worst": pytest.approx(1 / 3),
    }
    assert set(replaced_metrics([], 5).values()) == {0.0}


def test_no_rewards_and_wrong_numbers_of_groups() -> None:
    assert reward_metrics([], []) == {}
    with pytest.raises(ConfigError):
        group_statistics([0.1], [])
