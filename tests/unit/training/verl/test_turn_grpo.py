"""GRPO by turns: hand-made cases, verl's own GRPO where there is one turn, and the direction of the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage  # noqa: E402

from agentfly.training.verl.turn_grpo import turn_grpo_advantage, turn_numbers  # noqa: E402

pytestmark = pytest.mark.slow

PLAIN = {"norm_adv_by_std_in_grpo": False}


def advantages(rewards: list[list[float]], mask: list[list[int]], groups: list[str], config: Any = None) -> Any:
    return turn_grpo_advantage(torch.tensor(rewards), torch.tensor(mask), np.array(groups), config)


def test_turns_are_runs_of_sampled_tokens() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]]).bool()
    assert turn_numbers(mask).tolist() == [[0, 0, -1, -1, 1, -1], [-1, 0, -1, 1, -1, 2], [-1] * 6]


def test_turns_are_compared_with_turns_of_the_same_number() -> None:
    # Chain 1 earns 0.1 and 0.5, chain 2 earns 0.3 and 0.1: what follows is worth 0.6 and 0.4, then 0.5 and 0.1.
    made, returns = advantages(
        [[0.0, 0.1, 0.0, 0.5], [0.3, 0.0, 0.1, 0.0]], [[1, 1, 0, 1], [1, 0, 1, 0]], ["a", "a"], PLAIN
    )
    assert made.tolist() == [pytest.approx([0.1, 0.1, 0.0, 0.2]), pytest.approx([-0.1, 0.0, -0.2, 0.0])]
    assert returns.tolist() == [pytest.approx([0.6, 0.6, 0.0, 0.5]), pytest.approx([0.4, 0.0, 0.1, 0.0])]


def test_the_deviation_is_that_of_a_sample() -> None:
    made, _ = advantages([[0.0], [0.3], [0.9]], [[1], [1], [1]], ["a"] * 3)
    spread = np.std([0.0, 0.3, 0.9], ddof=1) + 1e-6
    assert made.flatten().tolist() == pytest.approx([(v - 0.4) / spread for v in (0.0, 0.3, 0.9)])


def test_a_turn_that_only_one_chain_has_is_compared_with_whole_chains() -> None:
    # The second turn's 0.9 stands against 1.0 and 0.2, which the two chains gave in all.
    made, _ = advantages([[0.1, 0.0, 0.9], [0.2, 0.0, 0.0]], [[1, 0, 1], [1, 0, 0]], ["a", "a"], PLAIN)
    assert made.tolist() == [pytest.approx([0.4, 0.0, 0.3]), pytest.approx([-0.4, 0.0, 0.0])]


def test_a_chain_alone_in_its_group_teaches_nothing() -> None:
    made, _ = advantages([[0.9], [0.1], [0.5]], [[1], [1], [1]], ["a", "b", "b"], PLAIN)
    assert made.flatten().tolist() == pytest.approx([0.0, -0.2, 0.2])


def test_a_chain_without_sampled_tokens_is_no_peer() -> None:
    made, _ = advantages([[0.0, 0.0], [0.2, 0.0], [0.4, 0.0]], [[0, 0], [1, 0], [1, 0]], ["a"] * 3, PLAIN)
    assert made.tolist() == [[0.0, 0.0], pytest.approx([-0.1, 0.0]), pytest.approx([0.1, 0.0])]


def single_turn_batch() -> tuple[Any, Any, Any]:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 9, 12)
    mask = (np.arange(8) < lengths[:, None]).astype(np.int64)
    rewards = np.zeros((12, 8), np.float32)
    rewards[np.arange(12), lengths - 1] = generator.uniform(-0.2, 1.0, 12)
    return torch.tensor(rewards), torch.tensor(mask), np.array(["a", "b", "c"] * 4)


@pytest.mark.parametrize("normalise", [True, False])
def test_it_is_grpo_where_chains_have_one_turn(normalise: bool) -> None:
    rewards, mask, groups = single_turn_batch()
    expected, _ = compute_grpo_outcome_advantage(rewards.clone(), mask, groups, norm_adv_by_std_in_grpo=normalise)
    made, _ = turn_grpo_advantage(rewards, mask, groups, {"norm_adv_by_std_in_grpo": normalise})
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=1e-5)


def test_the_first_turn_has_grpos_advantage_when_the_reward_comes_at_the_end() -> None:
    mask = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 1], [1, 1, 1, 0]])
    rewards = torch.tensor([[0.0, 0, 0.3, 0], [0, 0, 0, 0.9], [0, 0, 0.1, 0]])
    groups = np.array(["a"] * 3)
    expected, _ = compute_grpo_outcome_advantage(rewards.clone(), mask, groups)
    made, _ = turn_grpo_advantage(rewards, mask, groups)
    torch.testing.assert_close(made[:, 0], expected[:, 0], atol=1e-6, rtol=1e-5)


def test_a_gradient_step_makes_the_turn_that_earned_likelier() -> None:
    # Two chains with the same whole reward: GRPO sees no difference, but only the first one's turn 2 earned.
    mask = torch.tensor([[1, 0, 1], [1, 0, 1]])
    rewards = torch.tensor([[0.1, 0.0, 0.5], [0.6, 0.0, 0.0]])
    groups = np.array(["a", "a"])
    assert compute_grpo_outcome_advantage(rewards.clone(), mask, groups)[0].abs().max() < 1e-3
    made, _ = turn_grpo_advantage(rewards, mask, groups)
    log_probs = torch.zeros(2, 3, requires_grad=True)
    (-(made * log_probs * mask).sum()).backward()
    assert log_probs.grad[0, 2] < 0 < log_probs.grad[1, 2]
    assert log_probs.grad[:, 1].abs().max() == 0
