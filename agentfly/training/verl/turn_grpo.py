"""The advantage estimator `turn_grpo`: GRPO with an advantage for each turn of a chain.

GRPO (arXiv:2402.03300) adds up all rewards of a chain and gives every token the same advantage, so that credit by turn
is lost. Here the rewards from each turn on are compared with those of the same turn in the other chains of its prompt
(turn-level credit as in arXiv:2505.11821).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

EPSILON = 1e-6


@register_adv_est("turn_grpo")
def turn_grpo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Mapping[str, object] | None = None,
    **unused: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages by turn.

        G_{i,k} = sum of the rewards of chain i from the first token of its turn k on
        A_{i,k} = (G_{i,k} - mean over the group of G_{.,k}) / (std over the group of G_{.,k} + 1e-6)

    Means and deviations are over the chains of the group that have a turn k; a turn that only one chain has is compared
    with the whole returns G_{.,0} of the group. Without per-turn rewards, A_{i,0} is GRPO's advantage.

    Args:
        token_level_rewards: (chains, tokens).
        response_mask: (chains, tokens), 1 on sampled tokens; a turn is a run of ones.
        index: (chains,), the prompt of each chain.
        config: verl's node `algorithm`; `norm_adv_by_std_in_grpo=false` leaves the division out.
        **unused: verl's further arguments.

    Returns:
        Advantages and returns, both (chains, tokens), 0 outside of the mask.
    """
    normalise = True if config is None else bool(config.get("norm_adv_by_std_in_grpo", True))
    turns = turn_numbers(response_mask.bool())
    to_go = token_level_rewards.flip(1).cumsum(1).flip(1)
    starts = [_turn_returns(to_go[row], turns[row]) for row in range(len(turns))]
    groups: dict[Hashable, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, returns in enumerate(starts):
        for turn, value in enumerate(returns):
            groups[index[row]][turn].append(value)
    advantages = torch.zeros_like(token_level_rewards, dtype=torch.float32)
    for row, returns in enumerate(starts):
        for turn, value in enumerate(returns):
            group = groups[index[row]]
            peers = group[turn] if len(group[turn]) > 1 else group[0]
            advantages[row][turns[row] == turn] = _advantage(value, peers, normalise)
    return advantages, to_go * response_mask


def turn_numbers(mask: torch.Tensor) -> torch.Tensor:
    """Return the turn of each token, from 0; -1 for tokens that were not sampled.

    Args:
        mask: (chains, tokens), true on sampled tokens.
    """
    before = torch.nn.functional.pad(mask[:, :-1], (1, 0), value=False)
    numbers = (mask & ~before).long().cumsum(1) - 1
    return torch.where(mask, numbers, torch.full_like(numbers, -1))


def _turn_returns(to_go: torch.Tensor, turns: torch.Tensor) -> list[float]:
    """Return the reward to go at the first token of each turn."""
    count = int(turns.max()) + 1
    return [float(to_go[int((turns == turn).nonzero()[0])]) for turn in range(count)]


def _advantage(value: float, peers: list[float], normalise: bool) -> float:
    if len(peers) < 2:
        return 0.0
    spread = float(np.std(peers, ddof=1)) + EPSILON if normalise else 1.0
    return (value - float(np.mean(peers))) / spread
