"""Advantages of group estimators, computed from the rewards of a group as verl computes them.

A run does not record advantages. Those of `grpo`, `rloo`, `reinforce_plus_plus` and `turn_grpo` follow from the rewards
of chains, and of their turns, that are recorded (verl, `trainer/ppo/core_algos.py`, and
`agentfly.training.verl.turn_grpo`). They are right as long as every chain of the step that has a reward was trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from agentfly.viewer.chain.setup import RunSetup
from agentfly.viewer.index import Index, Row

EPSILON = 1e-6  # beside the deviation of a group
_REWARD, _DEVIATIONS = "of the reward", "standard deviations"  # units of an advantage
_WHITE = 1e-8  # beside the variance of a step
_CORE = "verl, trainer/ppo/core_algos.py"
_OURS = "agentfly.training.verl.turn_grpo"
_BY_TURN = ("turn_grpo", "reinforce_plus_plus")  # the estimators to which it matters which turn earned a reward


@dataclass(frozen=True)
class Rewarded:
    """A chain of a step, as far as advantages depend on it.

    Attributes:
        n: number in the index.
        reward: of the chain.
        turns: that it has.
        tokens: that it sampled.
        credit: reward and sampled tokens of each turn; empty where the last token got the whole reward.
    """

    n: int
    reward: float
    turns: int
    tokens: int
    credit: tuple[tuple[float, int], ...] = ()

    @cached_property
    def returns(self) -> tuple[float, ...]:
        """The reward from each turn on; a turn that sampled nothing is none to an estimator."""
        if not self.credit:
            return (self.reward,) * self.turns
        values = [value for value, _ in self.credit]
        return tuple(math.fsum(values[turn:]) for turn, (_, tokens) in enumerate(self.credit) if tokens)

    @property
    def weighted(self) -> list[tuple[float, int]]:
        """The reward from each turn on, and the tokens that have it."""
        if not self.credit:
            return [(self.reward, self.tokens)]
        return list(zip(self.returns, (tokens for _, tokens in self.credit if tokens), strict=True))

    def by_turn(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the values of the turns in `returns` for all turns; one that sampled nothing has 0."""
        left = iter(values)
        return tuple(next(left) if tokens else 0.0 for _, tokens in self.credit) if self.credit else tuple(values)


@dataclass(frozen=True)
class Advantage:
    """The advantages of a chain's turns; every token of a turn has that of its turn.

    Attributes:
        by_turn: one a turn; empty where they are not known.
        words: how they were computed, or why they are not known.
        source: module with the formula.
        unit: of the values.
        group: numbers and rewards of the chains that it was compared with, itself among them.
    """

    by_turn: tuple[float, ...]
    words: str
    source: str = ""
    unit: str = ""
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
    whole_step = setup.estimator == "reinforce_plus_plus"
    where = "part = ? AND step IS ?" + ("" if whole_step else " AND group_id = ?")
    peers = _chains(index, where, row.part, row.step, *(() if whole_step else (row.group_id,)))
    own = next((one for one in peers if one.n == row.n), Rewarded(row.n, reward, turns, row.tokens))
    if setup.credit is not None and setup.estimator in _BY_TURN and not all(one.credit for one in peers):
        return Advantage((), "not known: an earlier version wrote these chains without the rewards of their turns")
    return step_advantage(own, peers) if whole_step else group_advantage(own, peers, setup)


def group_advantage(own: Rewarded, group: Sequence[Rewarded], setup: RunSetup) -> Advantage:
    """Return the advantages of a chain within its group, for `grpo`, `rloo` and `turn_grpo`.

    Args:
        own: the chain.
        group: the chains of its prompt, itself among them.
        setup: with the estimator and its normalisation.
    """
    rewards = [one.reward for one in group]
    if setup.estimator == "rloo":
        # Of one chain, the reward as it is.
        count = len(rewards)
        value = own.reward if count < 2 else (own.reward - sum(rewards) / count) * count / (count - 1)
        words = f"its reward less the mean of the other {len(group) - 1} of its group"
        return Advantage((value,) * own.turns, words, _CORE, _REWARD, tuple(group))
    what = "the reward from a turn on" if setup.estimator == "turn_grpo" and own.credit else "its reward"
    words = f"{what} less the mean of the {len(group)} chains of its group"
    by_std, plainly = ", divided by their standard deviation (that of a sample)", ", not divided by their deviation"
    words += by_std if setup.by_std else plainly
    unit = _DEVIATIONS if setup.by_std else _REWARD
    if setup.estimator == "turn_grpo":
        values = []
        for turn, value in enumerate(own.returns):
            peers = [one.returns[turn] for one in group if len(one.returns) > turn]
            whole = [one.returns[0] for one in group if one.returns]
            values.append(_compared(value, peers if len(peers) > 1 else whole, setup.by_std))
        words += "; each turn is compared with the chains that have it"
        return Advantage(own.by_turn(values), words, _OURS, unit, tuple(group))
    # verl takes a single chain's reward as it is.
    alone = own.reward / (1.0 + EPSILON) if setup.by_std else own.reward
    value = _compared(own.reward, rewards, setup.by_std) if len(rewards) > 1 else alone
    return Advantage((value,) * own.turns, words, _CORE, unit, tuple(group))


def _unknown(setup: RunSetup) -> str:
    """Return the reason for which advantages cannot be computed from rewards; "" for none."""
    name = setup.estimator
    if name is None:
        return "the run's config.yaml does not name its estimator"
    if setup.kl_in_reward:
        return "the reward of each token includes a KL penalty that is not recorded"
    if name not in ("grpo", "rloo", "turn_grpo", "reinforce_plus_plus"):
        return f"{name[:40]} depends on more than the rewards of the group"
    if setup.credit not in (None, "end") and name == "reinforce_plus_plus":
        return f"with agentfly.credit={setup.credit[:20]} it depends on the place of each token"
    if name == "reinforce_plus_plus" and setup.gamma != 1.0:
        return "with algorithm.gamma below 1 it depends on the place of each token"
    return ""


def _compared(value: float, peers: Sequence[float], by_std: bool) -> float:
    if len(peers) < 2:
        return 0.0
    mean = sum(peers) / len(peers)
    spread = math.sqrt(sum((peer - mean) * (peer - mean) for peer in peers) / (len(peers) - 1))
    return (value - mean) / (spread + EPSILON) if by_std else value - mean


def step_advantage(own: Rewarded, step: Sequence[Rewarded]) -> Advantage:
    """Return the advantages of REINFORCE++: rewards from a token on, whitened over all sampled tokens of the step.

    Args:
        own: the chain.
        step: the chains of its step, itself among them.
    """
    weighted = [pair for one in step for pair in one.weighted]
    tokens = sum(count for _, count in weighted)
    if tokens < 2:
        return Advantage((), "not known: the step has no tokens")
    mean = sum(value * count for value, count in weighted) / tokens
    variance = sum((value - mean) ** 2 * count for value, count in weighted) / (tokens - 1)
    values = own.by_turn([(value - mean) / math.sqrt(variance + _WHITE) for value in own.returns])
    what = "the reward from a turn on" if own.credit else "its reward"
    words = f"{what}, whitened over the {tokens} sampled tokens of the {len(step)} chains of its step"
    return Advantage(values, words, _CORE, _DEVIATIONS)


def _chains(index: Index, where: str, *values: object) -> list[Rewarded]:
    found = index.query(
        f"SELECT n, reward, turns, tokens, credit FROM chains WHERE {where} AND validate = 0 AND reward IS NOT NULL "
        "ORDER BY n",
        *values,
    )
    return [
        Rewarded(
            one["n"],
            one["reward"],
            one["turns"],
            one["tokens"],
            tuple((value, tokens) for value, tokens in json.loads(one["credit"] or "[]")),
        )
        for one in found
    ]
