"""Advantages of group estimators, computed from the rewards of a group as verl computes them.

A run does not record advantages. Those of `grpo`, `rloo`, `reinforce_plus_plus` and `turn_grpo` follow from the rewards
of chains that are recorded (verl, `trainer/ppo/core_algos.py`, and `agentfly.training.verl.turn_grpo`). They are right
as long as every chain of the step that has a reward was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agentfly.viewer.chain.setup import RunSetup
from agentfly.viewer.index import Index, Row

EPSILON = 1e-6  # beside the deviation of a group
_WHITE = 1e-8  # beside the variance of a step
_CORE = "verl, trainer/ppo/core_algos.py"
_OURS = "agentfly.training.verl.turn_grpo"


@dataclass(frozen=True)
class Rewarded:
    """A chain of a step, as far as advantages depend on it.

    Attributes:
        n: number in the index.
        reward: of the chain.
        turns: that it has.
        tokens: that it sampled.
    """

    n: int
    reward: float
    turns: int
    tokens: int


@dataclass(frozen=True)
class Advantage:
    """The advantages of a chain's turns; every token of a turn has that of its turn.

    Attributes:
        by_turn: one a turn; empty where they are not known.
        words: how they were computed, or why they are not known.
        source: module with the formula.
        group: numbers and rewards of the chains that it was compared with, itself among them.
    """

    by_turn: tuple[float, ...]
    words: str
    source: str = ""
    group: tuple[Rewarded, ...] = ()


def advantage_of(index: Index, row: Row, setup: RunSetup, reward: float | None, turns: int) -> Advantage:
    """Return the advantages of a chain, as far as they are known.

    Args:
        index: of the run.
        row: of the chain.
        setup: of the run.
        reward, turns: of the chain.
    """
    if not setup.trained or row.validate is None:
        return Advantage((), "not known: this chain was not part of a training")
    if row.validate:
        return Advantage((), "none: chains of a validation are not trained on")
    if reward is None:
        return Advantage((), "none: a chain without a reward does not reach the trainer")
    if unknown := _unknown(setup):
        return Advantage((), f"not known: {unknown}")
    own = Rewarded(row.n, reward, turns, row.tokens)
    if setup.estimator == "reinforce_plus_plus":
        return _whitened(own, _step(index, row))
    return group_advantage(own, _group(index, row), setup)


def group_advantage(own: Rewarded, group: Sequence[Rewarded], setup: RunSetup) -> Advantage:
    """Return the advantages of a chain within its group, for `grpo`, `rloo` and `turn_grpo` without credit by turn.

    Args:
        own: the chain.
        group: the chains of its prompt, itself among them.
        setup: with the estimator and its normalisation.
    """
    rewards = [one.reward for one in group]
    if setup.estimator == "rloo":
        value = _leave_one_out(own.reward, rewards)
        words = f"its reward less the mean of the other {len(group) - 1} of its group"
        return Advantage((value,) * own.turns, words, _CORE, tuple(group))
    words = f"its reward less the mean of the {len(group)} chains of its group"
    divided = ", divided by their standard deviation (that of a sample)"
    words += divided if setup.by_std else ", not divided by their deviation"
    if setup.estimator == "turn_grpo":
        values = []
        for turn in range(own.turns):
            peers = [one.reward for one in group if one.turns > turn]
            values.append(_compared(own.reward, peers if len(peers) > 1 else rewards, setup.by_std))
        words += "; each turn is compared with the chains that have it"
        return Advantage(tuple(values), words, _OURS, tuple(group))
    # verl takes a single chain's reward as it is.
    alone = own.reward / (1.0 + EPSILON) if setup.by_std else own.reward
    value = _compared(own.reward, rewards, setup.by_std) if len(rewards) > 1 else alone
    return Advantage((value,) * own.turns, words, _CORE, tuple(group))


def _unknown(setup: RunSetup) -> str:
    """Return the reason for which advantages cannot be computed from rewards; "" for none."""
    name = setup.estimator
    if name is None:
        return "the run's config.yaml does not name its estimator"
    if setup.kl_in_reward:
        return "the reward of each token includes a KL penalty that is not recorded"
    if name not in ("grpo", "rloo", "turn_grpo", "reinforce_plus_plus"):
        return f"{name[:40]} depends on more than the rewards of the group"
    if setup.credit is not None and name in ("turn_grpo", "reinforce_plus_plus"):
        return "the rewards by turn (agentfly.credit) are not recorded"
    if name == "reinforce_plus_plus" and setup.gamma != 1.0:
        return "with algorithm.gamma below 1 it depends on the place of each token"
    return ""


def _compared(value: float, peers: Sequence[float], by_std: bool) -> float:
    if len(peers) < 2:
        return 0.0
    mean = sum(peers) / len(peers)
    spread = math.sqrt(sum((peer - mean) ** 2 for peer in peers) / (len(peers) - 1))
    return (value - mean) / (spread + EPSILON) if by_std else value - mean


def _leave_one_out(value: float, rewards: Sequence[float]) -> float:
    count = len(rewards)
    return value if count < 2 else (value - sum(rewards) / count) * count / (count - 1)


def _whitened(own: Rewarded, step: Sequence[Rewarded]) -> Advantage:
    """Return the advantage of REINFORCE++: rewards whitened over all sampled tokens of the step."""
    tokens = sum(one.tokens for one in step)
    if tokens < 2:
        return Advantage((), "not known: the step has no tokens")
    mean = sum(one.reward * one.tokens for one in step) / tokens
    variance = sum((one.reward - mean) ** 2 * one.tokens for one in step) / (tokens - 1)
    value = (own.reward - mean) / math.sqrt(variance + _WHITE)
    words = f"its reward, whitened over the {tokens} sampled tokens of the {len(step)} chains of its step"
    return Advantage((value,) * own.turns, words, _CORE)


def _group(index: Index, row: Row) -> list[Rewarded]:
    return _chains(index, "part = ? AND group_id = ? AND step IS ?", row.part, row.group_id, row.step)


def _step(index: Index, row: Row) -> list[Rewarded]:
    return _chains(index, "part = ? AND step IS ?", row.part, row.step)


def _chains(index: Index, where: str, *values: object) -> list[Rewarded]:
    found = index.query(
        f"SELECT n, reward, turns, tokens FROM chains WHERE {where} AND validate = 0 AND reward IS NOT NULL ORDER BY n",
        *values,
    )
    return [Rewarded(one["n"], one["reward"], one["turns"], one["tokens"]) for one in found]
