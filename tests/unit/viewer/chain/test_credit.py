"""Advantages are those that verl computes, and unknown ones are said to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentfly.agents.trajectory import Turn
from agentfly.viewer.chain.credit import Rewarded, advantage_of, group_advantage, step_advantage
from agentfly.viewer.chain.setup import RunSetup, read_setup
from tests.unit.viewer.chain.lines import line_of, run_of, store_of, trajectory

GROUP = [Rewarded(1, 0.9, 2, 10), Rewarded(2, 0.1, 1, 30), Rewarded(3, 0.4, 3, 20), Rewarded(4, 0.4, 2, 5)]


def setup(estimator: str | None, **changes: object) -> RunSetup:
    """Return the settings of a training."""
    return replace(RunSetup(trained=True, estimator=estimator), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("by_std", [True, False])
def test_grpo_compares_with_the_group(by_std: bool) -> None:
    found = group_advantage(GROUP[0], GROUP, setup("grpo", by_std=by_std))
    # mean 0.45, standard deviation of four with three degrees of freedom 0.33166
    assert found.by_turn == pytest.approx((0.45 / (0.331662 + 1e-6) if by_std else 0.45,) * 2, rel=1e-5)
    assert found.source.startswith("verl")


def test_grpo_takes_the_reward_of_a_single_chain_as_it_is() -> None:
    assert group_advantage(GROUP[0], GROUP[:1], setup("grpo")).by_turn == pytest.approx((0.9, 0.9), rel=1e-5)


def test_rloo_leaves_the_chain_out() -> None:
    found = group_advantage(GROUP[0], GROUP, setup("rloo"))
    assert found.by_turn == pytest.approx((0.9 - 0.3,) * 2)
    assert group_advantage(GROUP[0], GROUP[:1], setup("rloo")).by_turn == (0.9, 0.9)


def test_turn_grpo_compares_a_turn_with_the_chains_that_have_it() -> None:
    first, second, third = group_advantage(GROUP[2], GROUP, setup("turn_grpo", by_std=False)).by_turn
    assert first == pytest.approx(0.4 - 0.45)
    assert second == pytest.approx(0.4 - (0.9 + 0.4 + 0.4) / 3)
    assert third == pytest.approx(0.4 - 0.45)  # no other chain has it: the whole group


@pytest.mark.slow  # it imports verl
def test_formulas_are_those_of_verl() -> None:
    torch = pytest.importorskip("torch")
    numpy = pytest.importorskip("numpy")
    algorithms = pytest.importorskip("verl.trainer.ppo.core_algos")
    rewards = torch.zeros(4, 3)
    rewards[:, 2] = torch.tensor([one.reward for one in GROUP])
    index, mask = numpy.array(["a"] * 4), torch.ones(4, 3)
    for name, function in (
        ("grpo", algorithms.compute_grpo_outcome_advantage),
        ("rloo", algorithms.compute_rloo_outcome_advantage),
    ):
        theirs, _ = function(rewards.clone(), mask, index)
        for place, one in enumerate(GROUP):
            ours = group_advantage(one, GROUP, setup(name)).by_turn[0]
            assert ours == pytest.approx(float(theirs[place, 0]), rel=1e-4)


# Rewards of turns with their tokens; the second chain has a turn that sampled nothing.
CREDITED = [
    Rewarded(1, 0.9, 2, 5, ((0.7, 2), (0.2, 3))),
    Rewarded(2, 0.1, 3, 4, ((0.3, 1), (0.0, 0), (-0.2, 3))),
    Rewarded(3, 0.4, 3, 6, ((0.0, 1), (0.5, 2), (-0.1, 3))),
]


def test_credit_by_turn_is_compared_turn_by_turn() -> None:
    first, second = group_advantage(CREDITED[0], CREDITED, setup("turn_grpo", by_std=False)).by_turn
    assert first == pytest.approx(0.9 - (0.9 + 0.1 + 0.4) / 3)
    assert second == pytest.approx(0.2 - (0.2 - 0.2 + 0.4) / 3)
    found = group_advantage(CREDITED[1], CREDITED, setup("turn_grpo", by_std=False))
    assert found.by_turn == pytest.approx((0.1 - 1.4 / 3, 0.0, -0.2 - 0.4 / 3))
    assert "from a turn on" in found.words


@pytest.mark.slow  # it imports verl
def test_formulas_of_credit_are_those_of_training() -> None:
    torch = pytest.importorskip("torch")
    numpy = pytest.importorskip("numpy")
    algorithms = pytest.importorskip("verl.trainer.ppo.core_algos")
    training = pytest.importorskip("agentfly.training.verl.turn_grpo")
    rewards, mask, starts = torch.zeros(3, 12), torch.zeros(3, 12), []
    for row, chain in enumerate(CREDITED):
        places, at = [], 0
        for value, tokens in chain.credit:
            places.append(at if tokens else None)
            mask[row, at : at + tokens] = 1
            if tokens:
                rewards[row, at + tokens - 1] = value
                at += tokens + 1  # an observation
        starts.append(places)
    turns, _ = training.turn_grpo_advantage(rewards, mask, numpy.array(["a"] * 3))
    config = algorithms.AlgoConfig(gamma=1.0)
    whitened, _ = algorithms.compute_reinforce_plus_plus_outcome_advantage(rewards, mask, config)
    for theirs, ours in (
        (turns, [group_advantage(one, CREDITED, setup("turn_grpo")) for one in CREDITED]),
        (whitened, [step_advantage(one, CREDITED) for one in CREDITED]),
    ):
        for row, places in enumerate(starts):
            expected = [0.0 if at is None else float(theirs[row, at]) for at in places]
            assert ours[row].by_turn == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_credit_is_read_from_the_lines(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    turns = [Turn("x", "stop", 0.0, (), 0, 3), Turn("y", "stop", 0.0, (), 4, 5)]
    lines = [
        line_of(trajectory(store, [[], []], reward=sum(credit), id=f"c{place}", turns=turns), credit=credit)
        for place, credit in enumerate(((0.5, 0.5), (0.75, -0.25)))
    ]
    config = {
        "agentfly": {"credit": "end"},
        "algorithm": {"adv_estimator": "turn_grpo", "norm_adv_by_std_in_grpo": False},
    }
    run = run_of(tmp_path / "run", lines, config)
    given = read_setup(run.run)
    assert advantage_of(run.index, run.index.row(1), given, 1.0, 2).by_turn == (0.25, 0.375)
    whitened = advantage_of(run.index, run.index.row(2), replace(given, estimator="reinforce_plus_plus"), 0.5, 2)
    # (1, 1, 1, 0.5) and (0.5, 0.5, 0.5, -0.25)
    mean, values = 4.75 / 8, [1.0] * 3 + [0.5] * 4 + [-0.25]
    spread = (sum((value - mean) ** 2 for value in values) / 7) ** 0.5
    assert whitened.by_turn == pytest.approx(((0.5 - mean) / spread, (-0.25 - mean) / spread), rel=1e-5)


def test_the_group_is_found_in_the_index(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    lines = [
        line_of(replace(trajectory(store, reward=reward), id=f"g-{place}", group_id="g"))
        for place, reward in enumerate((1.0, 0.0, None))
    ]
    lines += [line_of(replace(trajectory(store, reward=5.0), id="other", group_id="h"))]
    lines += [line_of(replace(trajectory(store, reward=5.0), id="later", group_id="g"), step=2)]
    lines += [line_of(replace(trajectory(store, reward=5.0), id="held", group_id="g"), validate=True)]
    config = {"algorithm": {"adv_estimator": "grpo", "norm_adv_by_std_in_grpo": False}}
    run = run_of(tmp_path / "run", lines, config)
    row = run.index.row(1)
    found = advantage_of(run.index, row, read_setup(run.run), 1.0, 2)
    assert found.by_turn == (0.5, 0.5)
    assert [one.n for one in found.group] == [1, 2]


def test_reinforce_plus_plus_whitens_over_the_tokens_of_the_step(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    lines = []
    for place, (reward, tokens) in enumerate(((1.0, 3), (0.0, 1))):
        chain = trajectory(store, [[]], reward=reward, id=f"c{place}", turns=[Turn("x", "stop", 0.0, (), 0, tokens)])
        lines.append(line_of(chain))
    run = run_of(tmp_path / "run", lines, {"algorithm": {"adv_estimator": "reinforce_plus_plus"}})
    found = advantage_of(run.index, run.index.row(1), read_setup(run.run), 1.0, 1)
    # mean 0.75; variance (3 * 0.25² + 0.75²) / 3 = 0.25
    assert found.by_turn == pytest.approx((0.25 / 0.5,), rel=1e-5)
    assert "4 sampled tokens" in found.words


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (setup("gae"), "gae depends on more"),
        (setup(None), "does not name its estimator"),
        (setup("grpo", kl_in_reward=True), "KL penalty"),
        (setup("turn_grpo", credit="end"), "an earlier version"),
        (setup("reinforce_plus_plus", credit="even"), "place of each token"),
        (setup("reinforce_plus_plus", gamma=0.9), "gamma"),
        (RunSetup(), "not part of a training"),
    ],
)
def test_what_is_not_known_is_said(tmp_path: Path, given: RunSetup, words: str) -> None:
    store = store_of(tmp_path / "run")
    run = run_of(tmp_path / "run", [line_of(trajectory(store))])
    found = advantage_of(run.index, run.index.row(1), given, 0.5, 2)
    assert found.by_turn == ()
    assert words in found.words


def test_chains_that_are_not_trained_on_have_none(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    run = run_of(tmp_path / "run", [line_of(trajectory(store), validate=True)])
    assert "validation" in advantage_of(run.index, run.index.row(1), setup("grpo"), 0.5, 2).words
    run = run_of(tmp_path / "lost", [line_of(trajectory(store, reward=None))])
    assert "does not reach" in advantage_of(run.index, run.index.row(1), setup("grpo"), None, 2).words


@pytest.mark.parametrize("text", ["[]", "agentfly: 3", "algorithm: {gamma: x}", "{", "\x00"])
def test_settings_that_cannot_be_read_are_left_out(tmp_path: Path, text: str) -> None:
    store = store_of(tmp_path / "run")
    run = run_of(tmp_path / "run", [line_of(trajectory(store))])
    (tmp_path / "run" / "config.yaml").write_text(text)
    found = read_setup(run.run)
    assert found.estimator is None
    assert found.gamma == 1.0
    assert found.engines is None
