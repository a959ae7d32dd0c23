"""Filters, orders and pages of the table, and the counts beside its filters."""

from __future__ import annotations

import pytest

from agentfly.agents.trajectory import StopReason
from agentfly.viewer.index import Filters, Index
from tests.unit.viewer.made import line, run_of


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Return the index of seven chains."""
    run, _ = run_of(
        tmp_path_factory.mktemp("table") / "run",
        line("a", step=1, score=10.0, type="named", tool="detect_objects", instruction="Remove the RED star"),
        line("b", step=1, score=90.0, type="two_step", tool="inpaint_image", instruction="Remove the moon"),
        line("c", step=2, score=None, type="named", stop_reason=StopReason.ERROR, error="the engine is gone"),
        line("d", step=2, score=50.0, type="named", validate=True, tool="inpaint_image", reward=None),
        line("e", step=3, score=90.0, type="two_step", stop_reason=StopReason.MAX_TURNS, final_image=None),
        line("f", step=3, score=30.0, type="named", group="group-a", answer="red?"),
        line("g", step=4, score=70.0, type="odd & <b>", tool="<script>|x"),
    )
    found = Index(run)
    found.refresh()
    return found


def shown(index: Index, **query: str) -> str:
    return "".join(row.key for row in index.table(Filters.read(query)).rows)


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ({}, "gfedcba"),
        ({"down": "0"}, "abcdefg"),
        ({"sort": "score"}, "ebgdfac"),
        ({"sort": "score", "down": "0"}, "afdgbec"),
        ({"type": "named"}, "fdca"),
        ({"stop": "max_turns"}, "e"),
        ({"tool": "inpaint_image"}, "db"),
        ({"tool": "inpaint"}, ""),
        ({"alarm": "no_result"}, "e"),
        ({"validate": "1"}, "d"),
        ({"step": "2"}, "dc"),
        ({"step": "2", "step_to": "3"}, "fedc"),
        ({"step_to": "1"}, "ba"),
        ({"score_from": "50", "score_to": "70"}, "gd"),
        ({"text": "red"}, "fa"),
        ({"text": "moon REMOVE"}, "b"),
        ({"text": "red", "type": "two_step"}, ""),
        ({"text": "' OR 1 --"}, ""),
        ({"group": "group-a"}, "fa"),
        ({"task": "task-c"}, "c"),
        ({"type": "odd & <b>"}, "g"),
        ({"sort": "nothing", "size": "-3", "page": "no", "step": "9" * 40}, "gfedcba"),
    ],
)
def test_filters_and_orders(index: Index, query: dict[str, str], keys: str) -> None:
    assert shown(index, **query) == keys


@pytest.mark.parametrize("text", ["", "remove"])
def test_counts_are_those_of_each_choice_beside_the_other_filters(index: Index, text: str) -> None:
    table = index.table(Filters(type="named", tool="inpaint_image", text=text))
    assert table.total == 1
    assert table.counts["type"] == {"named": 1, "two_step": 1}, "the tool is kept, the type is free"
    assert table.counts["tool"] == {"inpaint_image": 1, "detect_objects": 3}
    assert table.counts["stop"] == {"answered": 1}
    assert table.counts["validate"] == {1: 1}


def test_each_count_is_what_its_choice_shows(index: Index) -> None:
    base = {"step_to": "3", "text": "remove"}
    for facet, counts in index.table(Filters.read(base)).counts.items():
        for value, number in counts.items():
            assert index.table(Filters.read({**base, facet: str(value)})).total == number, (facet, value)


def test_pages_divide_the_chains(index: Index) -> None:
    several = [line(str(number), step=number) for number in range(60)]
    run, _ = run_of(index.path.parent.parent.parent / "pages", *several)
    long = Index(run)
    long.refresh()
    pages = [long.table(Filters(size=25, page=page, down=False)) for page in (1, 2, 3, 4)]
    assert [len(page.rows) for page in pages] == [25, 25, 10, 0]
    assert {page.total for page in pages} == {60}
    assert [row.key for page in pages for row in page.rows] == [str(number) for number in range(60)]


def test_the_url_has_what_differs_and_reads_back() -> None:
    filters = Filters(type="a&b", score_from=0.0, validate=False, page=3, down=False)
    assert filters.to_query() == "validate=0&type=a%26b&score_from=0.0&down=0&page=3"
    assert Filters().to_query() == ""
    assert Filters.read({"type": "a&b", "score_from": "0.0", "validate": "0", "page": "3", "down": "0"}) == filters
