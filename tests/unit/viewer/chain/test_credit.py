"""Advantages are those that verl computes, and unknown ones are said to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentfly.agents.trajectory import Turn
from agentfly.viewer.chain.credit import Rewarded, advantage_of, group_advantage
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
        (setup("turn_grpo", credit="end"), "not recorded"),
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
