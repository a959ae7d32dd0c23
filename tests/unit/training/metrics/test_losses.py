"""verl's PPO and GRPO, computed by hand: masks with observations in them, unequal lengths, both sides of each clip.

What verl calls an advantage or a loss is what our documentation says it is; a new verl that means something else fails
here, and not in a night of training.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
from verl.trainer.ppo import core_algos  # noqa: E402
from verl.workers.config import ActorConfig  # noqa: E402

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
Floats = NDArray[np.float64]

# Four chains of two prompts: 1 is a sampled token, 0 an observation or padding.
MASK = np.array(
    [
        [1, 1, 1, 0, 0, 1, 1, 0, 0, 0],
        [1, 0, 0, 0, 1, 0, 1, 1, 1, 1],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 1, 0, 0],
    ]
)
GROUPS = np.array(["a", "a", "b", "b"])
SCORES = np.array([0.9, -0.1, 0.35, 0.3])
GAMMA, LAMBDA = 0.97, 0.9
LOW, HIGH, DUAL = 0.2, 0.28, 3.0


def last_token(values: Floats) -> Floats:
    """Each chain's value on its last sampled token."""
    made = np.zeros(MASK.shape)
    for row, value in enumerate(values):
        made[row, np.flatnonzero(MASK[row])[-1]] = value
    return made


def drawn(seed: int, scale: float) -> Floats:
    """Numbers everywhere, also where the mask is 0: nothing there may count."""
    return np.random.default_rng(seed).normal(0.0, scale, MASK.shape)


def tensor(values: Any) -> Any:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def assert_close(made: Any, expected: Any, where: Any = None) -> None:
    made, expected = np.asarray(made.detach() if torch.is_tensor(made) else made), np.asarray(expected)
    if where is not None:
        made, expected = made[where], expected[where]
    np.testing.assert_allclose(made, expected, atol=TOLERANCE, rtol=TOLERANCE)


def grpo_by_hand(normalise: bool) -> Floats:
    made = np.zeros(MASK.shape)
    for row, score in enumerate(SCORES):
        peers = SCORES[GROUPS[row] == GROUPS]
        spread = math.sqrt(((peers - peers.mean()) ** 2).sum() / (len(peers) - 1)) + 1e-6 if normalise else 1.0
        made[row] = MASK[row] * (score - peers.mean()) / spread
    return made


@pytest.mark.parametrize("normalise", [True, False])
def test_grpo_advantage(normalise: bool) -> None:
    made, returns = core_algos.compute_grpo_outcome_advantage(
        tensor(last_token(SCORES)), tensor(MASK), GROUPS, norm_adv_by_std_in_grpo=normalise
    )
    assert_close(made, grpo_by_hand(normalise))
    assert_close(returns, grpo_by_hand(normalise))


def gae_by_hand(rewards: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Generalised advantage estimation (arXiv:1506.02438, eq. 11-16) on the sampled tokens alone, whitened."""
    raw = np.zeros(MASK.shape)
    for row in range(len(MASK)):
        places = np.flatnonzero(MASK[row])
        for i in range(len(places)):
            for k, place in enumerate(places[i:]):
                after = places[i + k + 1] if i + k + 1 < len(places) else None
                delta = rewards[row, place] + (GAMMA * values[row, after] if after is not None else 0.0)
                raw[row, places[i]] += (GAMMA * LAMBDA) ** k * (delta - values[row, place])
    sampled = raw[MASK == 1]
    variance = ((sampled - sampled.mean()) ** 2).sum() / (len(sampled) - 1)
    return (raw - sampled.mean()) / math.sqrt(variance + 1e-8), raw + values


def test_gae_sees_no_observations() -> None:
    # Credit by turn: rewards in the middle of a chain too, as `agentfly.credit` puts them.
    rewards = last_token(SCORES)
    rewards[0, 2], rewards[3, 3] = 0.4, -0.2
    values = drawn(1, 0.5)
    made, returns = core_algos.compute_gae_advantage_return(
        tensor(rewards), tensor(values), tensor(MASK), GAMMA, LAMBDA
    )
    advantages, expected = gae_by_hand(rewards, values)
    assert_close(made, advantages, MASK == 1)
    assert_close(returns, expected, MASK == 1)


def actor(**values: Any) -> ActorConfig:
    given = {"clip_ratio": LOW, "clip_ratio_low": LOW, "clip_ratio_high": HIGH, "clip_ratio_c": DUAL, **values}
    return ActorConfig(strategy="fsdp2", rollout_n=2, ppo_micro_batch_size_per_gpu=1, **given)


def case() -> tuple[Floats, Floats, Floats]:
    """Old log-probs, new ones and advantages, with ratios below, within and above the clip for both signs."""
    old, advantages = drawn(2, 0.3) - 1.0, drawn(3, 1.0)
    ratios = np.array([0.5, 0.9, 1.1, 1.24, 1.5, 4.0, 0.79, 1.29, 1.0, 2.9])
    # Rolled from row to row, so that each ratio meets advantages of both signs.
    ratio = np.stack([np.roll(ratios, 3 * row) for row in range(len(MASK))])
    return old, old + np.log(ratio), advantages


def policy_loss_by_hand(old: Floats, new: Floats, advantages: Floats) -> tuple[Floats, Floats]:
    """Loss of each token, and its derivative by the new log-prob (arXiv:1707.06347; dual clip arXiv:1912.09729)."""
    loss, slope = np.zeros(MASK.shape), np.zeros(MASK.shape)
    for place in np.ndindex(MASK.shape):
        ratio, gain = math.exp(new[place] - old[place]), advantages[place]
        clipped = min(max(ratio, 1 - LOW), 1 + HIGH)
        loss[place], slope[place] = -gain * ratio, -gain * ratio
        if -gain * clipped > loss[place]:
            loss[place], slope[place] = -gain * clipped, 0.0
        if gain < 0 and loss[place] > -gain * DUAL:
            loss[place], slope[place] = -gain * DUAL, 0.0
    return loss, slope


def weights_by_hand(mode: str) -> Floats:
    """Return the weight of each token in the loss."""
    lengths, everything = MASK.sum(1, keepdims=True), MASK.sum()
    by_mode: dict[str, Floats] = {
        "token-mean": MASK / everything,
        "seq-mean-token-sum": MASK / len(MASK),
        "seq-mean-token-mean": MASK / lengths / len(MASK),
        "seq-mean-token-sum-norm": MASK / len(MASK) / MASK.shape[1],
    }
    return by_mode[mode]


MODES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


@pytest.mark.parametrize("mode", MODES)
def test_policy_loss_and_its_gradient(mode: str) -> None:
    old, new, advantages = case()
    log_prob = tensor(new).requires_grad_()
    loss, metrics = core_algos.get_policy_loss_fn("vanilla")(
        old_log_prob=tensor(old),
        log_prob=log_prob,
        advantages=tensor(advantages),
        response_mask=tensor(MASK),
        loss_agg_mode=mode,
        config=actor(),
    )
    loss.backward()
    by_token, slope = policy_loss_by_hand(old, new, advantages)
    weights = weights_by_hand(mode)
    assert_close(loss, (by_token * weights).sum())
    assert_close(log_prob.grad, slope * weights)
    assert log_prob.grad[MASK == 0].abs().max() == 0
    ratio, gain = np.exp(new - old)[MASK == 1], advantages[MASK == 1]
    clipped = -gain * np.clip(ratio, 1 - LOW, 1 + HIGH) > -gain * ratio
    assert 0 < clipped.mean() < 1
    assert_close(metrics["actor/pg_clipfrac"], clipped.mean())
    assert metrics["actor/pg_clipfrac_lower"] > 0


def test_the_case_meets_every_side_of_the_clips() -> None:
    old, new, advantages = (values[MASK == 1] for values in case())
    ratio = np.exp(new - old)
    for sign in (advantages > 0, advantages < 0):
        assert (ratio[sign] < 1 - LOW).any()
        assert (ratio[sign] > 1 + HIGH).any()
        assert ((ratio[sign] > 1 - LOW) & (ratio[sign] < 1 + HIGH)).any()
    # Between the two bounds: what one bound for both sides would treat otherwise.
    assert ((ratio > 1 + LOW) & (ratio < 1 + HIGH)).any()
    assert ((ratio > DUAL) & (advantages < 0)).any()


def test_a_grpo_step_from_scores_to_loss() -> None:
    """Before the first update the ratio is 1: the loss is the mean advantage, and each chain pulls as it scored."""
    advantages, _ = core_algos.compute_grpo_outcome_advantage(tensor(last_token(SCORES)), tensor(MASK), GROUPS)
    log_prob = tensor(drawn(4, 0.3)).requires_grad_()
    loss, _ = core_algos.compute_policy_loss_vanilla(
        log_prob.detach(), log_prob, advantages, tensor(MASK), "token-mean", actor()
    )
    loss.backward()
    expected = grpo_by_hand(normalise=True)
    assert_close(loss, -(expected * MASK).sum() / MASK.sum())
    assert_close(log_prob.grad, -expected * MASK / MASK.sum())


@pytest.mark.parametrize("mode", MODES)
def test_aggregation(mode: str) -> None:
    loss = drawn(5, 1.0)
    assert_close(core_algos.agg_loss(tensor(loss), tensor(MASK), mode), (loss * weights_by_hand(mode)).sum())


def test_aggregation_over_micro_batches_is_that_of_the_batch() -> None:
    loss = drawn(6, 1.0)
    parts = [
        core_algos.agg_loss(tensor(loss[rows]), tensor(MASK[rows]), "token-mean", batch_num_tokens=int(MASK.sum()))
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert_close(sum(parts), (loss * MASK).sum() / MASK.sum())


def test_value_loss_is_clipped_around_the_old_value() -> None:
    old, returns, clip = drawn(7, 0.5), drawn(8, 0.5), 0.2
    new = old + np.stack([np.roll(np.linspace(-0.6, 0.6, 10), row) for row in range(4)])
    made, share = core_algos.compute_value_loss(tensor(new), tensor(returns), tensor(old), tensor(MASK), clip)
    loss, clipped = 0.0, 0
    for place in zip(*np.nonzero(MASK), strict=True):
        near = min(max(new[place], old[place] - clip), old[place] + clip)
        free, bound = (new[place] - returns[place]) ** 2, (near - returns[place]) ** 2
        loss, clipped = loss + max(free, bound) / 2, clipped + (bound > free)
    assert_close(made, loss / MASK.sum())
    assert 0 < clipped < MASK.sum()
    assert_close(share, clipped / MASK.sum())


def test_the_kl_term_is_schulmans_third_estimator() -> None:
    new, reference = drawn(9, 0.3), drawn(10, 0.3)
    made = core_algos.kl_penalty(tensor(new), tensor(reference), "low_var_kl")
    assert_close(made, np.exp(reference - new) - (reference - new) - 1)
