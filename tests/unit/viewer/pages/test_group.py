"""The pages of groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.viewer.made import line, links_of, run_of, serving, text_of

CONFIG = "algorithm:\n  adv_estimator: grpo\nagentfly: {}\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a training run: one task at two steps, of which the second has no variance, and a validation."""
    run_of(
        tmp_path / "run",
        line("a", step=1, group="g1", task="star", reward=0.0, score=0.0),
        line("b", step=1, group="g1", task="star", reward=1.0, score=100.0),
        line("c", step=2, group="g2", task="star", reward=0.75),
        line("d", step=2, group="g2", task="star", reward=0.75),
        line("v", step=2, group="v", task="held", validate=True),
    )
    (tmp_path / "run" / "config.yaml").write_text(CONFIG)
    return tmp_path / "run"


def test_the_list_marks_groups_without_variance(run: Path) -> None:
    with serving(run) as client:
        page = client.get("/runs/run/groups")
        assert page.status_code == 200
        words = text_of(page.text)
        assert "2 groups, 1 without spread" in words, "chains of the validation are not among them"
        assert words.count("no variance") == 1
        assert "3 groups" in text_of(client.get("/runs/run/groups?chains=all").text)
        for address in links_of(page.text, "/group"):
            assert client.get(address).status_code == 200, address


def test_a_group_shows_rewards_and_advantages(run: Path) -> None:
    with serving(run) as client:
        words = text_of(client.get("/runs/run/group?task=star&step=1").text)
    assert "2 chains, mean reward 0.5, standard deviation 0.5" in words
    assert "Advantage +0.71" in words
    assert "Advantage -0.71" in words
    assert words.index("+0.71") < words.index("-0.71"), "the best comes first"
    assert "less the mean of the 2 chains of its group" in words


def test_the_last_step_is_chosen_and_the_others_stand_beside_it(run: Path) -> None:
    with serving(run) as client:
        page = client.get("/runs/run/group?task=star").text
    assert "No variance: all chains got the same reward" in text_of(page)
    assert "/runs/run/group?task=star&step=1&part=1" in links_of(page, "task=star")


def test_a_task_that_is_not_there_is_told(run: Path) -> None:
    with serving(run) as client:
        assert client.get("/runs/run/group?task=nothing").status_code == 404
        assert client.get("/runs/run/group").status_code == 404
        assert client.get("/runs/run/group?task=star&step=77&part=9").status_code == 200


def test_filters_that_nothing_passes_can_be_dropped(run: Path) -> None:
    with serving(run) as client:
        assert "No group matches these filters" in text_of(client.get("/runs/run/groups?step=77").text)
        assert client.get("/runs/run/groups?step=x&sort=no&page=-1&part=%00&chains=no").status_code == 200


def test_an_evaluation_lists_its_tasks(tmp_path: Path) -> None:
    run_of(tmp_path / "run", line("a", step=None, validate=None, reward=None, score=40.0))
    with serving(tmp_path / "run") as client:
        words = text_of(client.get("/runs/run/groups").text)
        assert "Mean score" in words
        assert "0.4" in words
        assert "not part of a training" in text_of(client.get("/runs/run/group?task=task-a").text)
