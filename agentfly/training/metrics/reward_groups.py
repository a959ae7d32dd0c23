"""Statistics of a batch of rewards: each part by name, and each group of chains of one prompt.

A group whose chains all got the same reward has advantages of zero (GRPO), and nothing can be learned from it. Such
groups are counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from agentfly.errors import ConfigError
from agentfly.evaluators.reward import Reward

# Standard deviation of a group's rewards below which they count as equal: GRPO divides by it.
EQUAL = 1e-6
# Mean rewards of a group without variance above and below which its task is too easy or too hard.
BEST, WORST = 0.9, 0.1


@dataclass(frozen=True)
class GroupStatistics:
    """One group: number of chains, and mean, standard deviation (of the population), minimum and maximum of rewards."""

    group: Hashable
    size: int
    mean: float
    std: float
    low: float
    high: float

    @property
    def zero_variance(self) -> bool:
        """True if nothing can be learned from it, as from every group of one."""
        return self.std < EQUAL


def group_statistics(rewards: Sequence[float], groups: Sequence[Hashable]) -> list[GroupStatistics]:
    """Return the statistics of each group, in the order of their first chains.

    Args:
        rewards: one for each chain.
        groups: the group of each chain.

    Raises:
        ConfigError: there is not one group for each reward.
    """
    if len(rewards) != len(groups):
        raise ConfigError(f"{len(rewards)} rewards for {len(groups)} groups: give one a chain")
    members: dict[Hashable, list[float]] = defaultdict(list)
    for reward, group in zip(rewards, groups, strict=True):
        members[group].append(reward)
    return [
        GroupStatistics(group, len(v), float(np.mean(v)), float(np.std(v)), min(v), max(v))
        for group, v in members.items()
    ]


def reward_metrics(rewards: Sequence[Reward], groups: Sequence[Hashable]) -> dict[str, float]:
    """Return the metrics of a batch: `reward/...`, each part as `reward/part/NAME`, and `reward/group/...`.

    `std_within` is the mean over groups of their standard deviation, `zero_variance` the share of groups that have
    none, and `all_best` and `all_worst` the shares that have none because the task is too easy or too hard
    (above 0.9, or below 0.1).

    Args:
        rewards: one for each chain.
        groups: the group of each chain.
    """
    if not rewards:
        return {}
    values = np.array([reward.value for reward in rewards])
    metrics = {
        "reward/mean": float(values.mean()),
        "reward/std": float(values.std()),
        "reward/min": float(values.min()),
        "reward/max": float(values.max()),
    }
    for name in sorted({name for reward in rewards for name in reward.parts}):
        metrics[f"reward/part/{name}"] = float(np.mean([reward.parts.get(name, 0.0) for reward in rewards]))
    found = group_statistics([reward.value for reward in rewards], groups)
    flat = [group for group in found if group.zero_variance]
    return metrics | {
        "reward/group/count": float(len(found)),
        "reward/group/std_within": float(np.mean([group.std for group in found])),
        "reward/group/zero_variance": len(flat) / len(found),
        "reward/group/all_best": sum(group.mean > BEST for group in flat) / len(found),
        "reward/group/all_worst": sum(group.mean < WORST for group in flat) / len(found),
    }


def replaced_metrics(replaced: Sequence[GroupStatistics], kept: int) -> dict[str, float]:
    """Return the metrics of the groups that a step has replaced by others.

        refill/total_groups    number of them
        refill/share           of all groups that were sampled for the step
        refill/all_best        share of them with a mean reward above 0.9: their tasks are too easy
        refill/all_worst       the same, below 0.1: too hard

    Args:
        replaced: in the step.
        kept: number of groups that are trained on.
    """
    return {
        "refill/total_groups": float(len(replaced)),
        "refill/share": len(replaced) / max(1, len(replaced) + kept),
        "refill/all_best": sum(group.mean > BEST for group in replaced) / max(1, len(replaced)),
        "refill/all_worst": sum(group.mean < WORST for group in replaced) / max(1, len(replaced)),
    }
