"""Tasks are drawn by what can be learned from them: estimates follow what is seen, forget it, and survive a resume."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from agentfly.errors import TrainingError
from agentfly.training.metrics.task_difficulty import TaskDifficulty


def made(kinds: str = "aaaabbbb", **named: Any) -> TaskDifficulty:
    return TaskDifficulty(kinds, **{"chains": 8, **named})


def test_a_task_is_expected_to_be_like_what_was_seen_of_it_and_of_its_type() -> None:
    tasks = made(strength=2.0)
    assert tasks.expected(range(8)).tolist() == [0.5] * 8
    tasks.observe([(0, 1.0)] * 6, 1)
    # The type: (1 + 6) / (2 + 6). Its other tasks are taken to be like that; of the one itself there is more.
    assert tasks.expected([1, 2, 3]).tolist() == pytest.approx([7 / 8] * 3)
    assert tasks.expected([0])[0] == pytest.approx((2 * 7 / 8 + 6) / 8)
    assert tasks.expected([4, 7]).tolist() == [0.5, 0.5]


def test_a_reward_counts_as_a_share_of_a_success() -> None:
    whole, shares, outside = made(), made(), made()
    whole.observe([(0, 1.0), (0, 0.0)], 1)
    shares.observe([(0, 0.25), (0, 0.75)], 1)
    assert shares.expected([0, 1]).tolist() == whole.expected([0, 1]).tolist()
    # A cost may take a reward below 0.
    outside.observe([(0, 1.2), (0, -0.2)], 1)
    assert outside.expected([0, 1]).tolist() == whole.expected([0, 1]).tolist()


def test_what_was_seen_long_ago_counts_less() -> None:
    tasks = made("aaaab", half_life=10.0, strength=2.0)
    tasks.observe([(0, 1.0)] * 8, 1)
    tasks.observe([(4, 0.5)], 11)  # of another type
    kind = (1 + 4) / (2 + 4)
    assert tasks.expected([0])[0] == pytest.approx((2 * kind + 4) / (2 + 4))
    tasks.observe([(4, 0.5)], 1000)
    assert tasks.expected([0])[0] == pytest.approx(0.5)


def test_what_can_be_learned_from_is_drawn_most() -> None:
    kinds = "e" * 100 + "m" * 100 + "h" * 100  # easy, middle, hard
    tasks, at_random = made(kinds), made(kinds, candidates=1)
    drawn: dict[int, Counter[str]] = {}
    for number, each in enumerate((tasks, at_random)):
        each.observe([(0, 1.0)] * 16 + [(100, 1.0), (100, 0.0)] * 8 + [(200, 0.0)] * 16, 1)
        drawn[number] = Counter(kinds[each.draw()] for _ in range(90))
    assert drawn[0]["m"] > 45
    # A rare success teaches more than a rare failure. And what has changed since is seen.
    assert drawn[0]["h"] > drawn[0]["e"] > 0
    assert max(drawn[1].values()) < 50


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_a_task_comes_again_only_after_half_of_the_others(count: int) -> None:
    tasks = made("a" * count)
    drawn = [tasks.draw() for _ in range(5 * count)]
    for place, row in enumerate(drawn):
        assert row not in drawn[place + 1 : place + count // 2]
    assert set(drawn) == set(range(count))


def test_metrics_tell_how_well_the_estimates_predict() -> None:
    tasks = made("ab", strength=2.0)
    first = tasks.observe([(0, 1.0)] * 30, 1)
    assert (first["curriculum/expected"], first["curriculum/error"], first["curriculum/seen"]) == (0.5, 0.5, 0.5)
    assert (first["curriculum/solved"], first["curriculum/unsolved"]) == (0.5, 0.0)
    second = tasks.observe([(0, 1.0)], 2)
    assert second["curriculum/error"] < 0.05


def test_a_resumed_run_draws_what_the_interrupted_one_would_have_drawn() -> None:
    kinds, rng = "abc" * 20, np.random.default_rng(0)
    whole = made(kinds, seed=3)

    def step(tasks: TaskDifficulty, number: int, rewards: np.random.Generator) -> list[int]:
        rows = [tasks.draw() for _ in range(4)]
        tasks.observe([(row, float(rewards.random())) for row in rows], number)
        return rows

    for number in range(1, 6):
        step(whole, number, rng)
    # As plain JSON it is independent of numpy and torch.
    state, rewards = json.loads(json.dumps(whole.state_dict())), rng.bit_generator.state
    expected = [step(whole, number, rng) for number in range(6, 12)]
    resumed = made(kinds, seed=99)
    resumed.load_state_dict(state)
    rng.bit_generator.state = rewards
    assert [step(resumed, number, rng) for number in range(6, 12)] == expected


def test_a_checkpoint_of_other_tasks_is_refused() -> None:
    state = made("aa").state_dict()
    with pytest.raises(TrainingError, match="the checkpoint has the difficulty of 2 tasks, and the run has 8"):
        made().load_state_dict(state)
