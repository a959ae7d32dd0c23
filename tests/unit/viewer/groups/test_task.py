"""The chains of a task at several steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfly.viewer.chain.setup import RunSetup
from agentfly.viewer.groups.task import MOST_CHAINS, MOST_MOMENTS, task_view
from agentfly.viewer.index import Index
from tests.unit.viewer.made import line, run_of

GRPO = RunSetup(trained=True, estimator="grpo")


def index_of(folder: Path, *lines: bytes) -> Index:
    run, _ = run_of(folder / "run", *lines)
    found = Index(run)
    found.refresh()
    return found


def test_columns_are_in_time_and_keep_the_chosen_one(tmp_path: Path) -> None:
    index = index_of(tmp_path, *(line(f"{s}-{n}", task="t", step=s, group=f"g{s}") for s in range(60) for n in (0, 1)))
    view = task_view(index, "t", 17, None, GRPO)
    steps = [moment.step for moment in view.moments]
    assert view.all_moments == 60
    assert len(steps) <= MOST_MOMENTS + 1
    assert steps == sorted(steps, key=lambda step: step or 0)
    assert {0, 17, 59} <= set(steps)
    assert view.chosen.step == 17
    assert view.earlier is not None
    assert view.later is not None
    assert (view.earlier.step, view.later.step) == (16, 18)


def test_without_a_wish_the_last_step_is_chosen(tmp_path: Path) -> None:
    index = index_of(
        tmp_path, line("a", task="t", step=3), line("b", task="t", step=5), line("c", task="other", step=9)
    )
    assert task_view(index, "t", None, None, GRPO).chosen.step == 5
    assert task_view(index, "t", 4, None, GRPO).chosen.step == 5, "a step that does not occur"
    with pytest.raises(KeyError):
        task_view(index, "nothing", None, None, GRPO)


def test_two_groups_of_one_task_are_not_compared_with_each_other(tmp_path: Path) -> None:
    rewards = {"g1": (0.0, 1.0), "g2": (0.4, 0.6)}
    index = index_of(
        tmp_path,
        *(line(f"{g}{n}", task="t", group=g, reward=r) for g, both in rewards.items() for n, r in enumerate(both)),
    )
    found = {member.row.id: member.advantage for member in task_view(index, "t", None, None, GRPO).members}
    assert found["g11"] == pytest.approx(0.7071, abs=1e-3)
    assert found["g21"] == pytest.approx(0.7071, abs=1e-3)
    assert found["g10"] == pytest.approx(-0.7071, abs=1e-3)


def test_an_estimator_that_is_not_known_has_no_advantages(tmp_path: Path) -> None:
    index = index_of(tmp_path, line("a", task="t"), line("b", task="t"))
    view = task_view(index, "t", None, None, RunSetup(trained=True, estimator="gae"))
    assert [member.advantage for member in view.members] == [None, None]
    assert "depends on more" in view.words


def test_a_task_with_very_many_chains_shows_some(tmp_path: Path) -> None:
    index = index_of(tmp_path, *(line(str(n), task="t", group="g", reward=n / 100) for n in range(MOST_CHAINS + 9)))
    view = task_view(index, "t", None, None, GRPO)
    assert (view.size, len(view.members)) == (MOST_CHAINS + 9, MOST_CHAINS)
    assert view.members[0].row.reward == max(member.row.reward or 0 for member in view.members)
