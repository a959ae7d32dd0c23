"""The list of groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfly.training.metrics.reward_groups import EQUAL as TRAINED_EQUAL
from agentfly.training.metrics.reward_groups import group_statistics
from agentfly.viewer.groups.listed import EQUAL, SIZE, GroupFilters, list_groups
from agentfly.viewer.index import Index
from tests.unit.viewer.made import line, run_of

REWARDS = {"g1": (0.1, 0.9, 0.5), "g2": (0.3, 0.3, 0.3), "g3": (1.0,), "g4": (0.2, 0.4)}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Return the index of four groups of two steps."""
    lines = [
        line(
            f"{group}-{n}", group=group, task=f"task-{group}", step=1 + (group > "g2"), reward=reward, type=f"t{group}"
        )
        for group, rewards in REWARDS.items()
        for n, reward in enumerate(rewards)
    ]
    run, _ = run_of(tmp_path / "run", *lines, line("none", group="g1", task="task-g1", reward=None, score=None))
    found = Index(run)
    found.refresh()
    return found


def test_the_statistics_are_those_of_the_training(index: Index) -> None:
    assert EQUAL == TRAINED_EQUAL
    rewards = [reward for rewards in REWARDS.values() for reward in rewards]
    groups = [group for group, rewards in REWARDS.items() for _ in rewards]
    expected = {found.group: found for found in group_statistics(rewards, groups)}
    for group in list_groups(index, GroupFilters()).rows:
        known = expected[group.group_id]
        assert group.mean == pytest.approx(known.mean)
        assert group.spread == pytest.approx(known.std, abs=1e-8)
        assert group.flat == (known.zero_variance and known.size > 1)


def test_best_and_worst_are_named(index: Index) -> None:
    group = next(group for group in list_groups(index, GroupFilters()).rows if group.group_id == "g1")
    assert group.size == 4, "a chain without a reward is counted"
    assert group.best is not None
    assert group.worst is not None
    assert index.row(group.best.n).id == "g1-1"
    assert index.row(group.worst.n).id == "g1-0"


@pytest.mark.parametrize(
    ("query", "groups"),
    [
        ({"sort": "mean"}, ["g3", "g1", "g4", "g2"]),
        ({"sort": "spread"}, ["g1", "g4", "g3", "g2"]),
        ({"sort": "spread", "down": "0"}, ["g3", "g2", "g4", "g1"]),
        ({"spread": "none"}, ["g2"]),
        ({"spread": "some", "sort": "mean"}, ["g1", "g4"]),
        ({"step": "2", "sort": "mean"}, ["g3", "g4"]),
        ({"type": "tg4"}, ["g4"]),
        ({"chains": "validation"}, []),
    ],
)
def test_filters_and_orders(index: Index, query: dict[str, str], groups: list[str]) -> None:
    found = list_groups(index, GroupFilters.read(query))
    assert [group.group_id for group in found.rows] == groups
    assert found.total == len(groups)


def test_pages(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path / "run", *(line(f"{n:03}", step=n) for n in range(SIZE + 5)))
    index = Index(run)
    index.refresh()
    first, second = (list_groups(index, GroupFilters(page=page)) for page in (1, 2))
    assert (len(first.rows), len(second.rows), first.total) == (SIZE, 5, SIZE + 5)
    assert list_groups(index, GroupFilters(page=99)).rows == first.rows, "a page that is not there"


def test_the_query_reads_back() -> None:
    filters = GroupFilters(part=2, type="a&b", step=0, chains="all", spread="none", sort="mean", down=False, page=3)
    query = dict(pair.split("=") for pair in filters.to_query().replace("%26", "&").replace("a&b", "a%26b").split("&"))
    assert GroupFilters.read(query | {"type": "a&b"}) == filters
    assert GroupFilters().to_query() == ""
