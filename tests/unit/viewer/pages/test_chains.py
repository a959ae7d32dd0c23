"""The table of chains as a page: filters in the URL, counts, pages, empty and hostile contents."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from agentfly.agents.trajectory import StopReason
from agentfly.errors import ConfigError
from agentfly.viewer.index import Filters, Index
from agentfly.viewer.index.index import State
from agentfly.viewer.links import ServerLinks
from agentfly.viewer.opened import OpenRun, Viewer
from agentfly.viewer.pages.chains import ChainsView, chains_view, page
from agentfly.viewer.pages.context import Context
from agentfly.viewer.settings import ViewerSettings
from tests.unit.viewer.made import append, line, links_of, run_of, serving, text_of

LINES = (
    line("a", step=1, score=10.0, type="named", tool="detect_objects", instruction="Remove the red star"),
    line("b", step=1, score=90.0, type="two_step", tool="inpaint_image"),
    line("c", step=2, score=None, type="named", stop_reason=StopReason.ERROR, error="the engine is gone"),
    line("d", step=2, score=50.0, type="named", validate=True),
)


def view(folder: Path, query: dict[str, str], *lines: bytes) -> ChainsView:
    run, _ = run_of(folder / "run", *(lines or LINES))
    index = Index(run)
    index.refresh()
    return chains_view(index, Filters.read(query), ServerLinks("run"))


def facet(found: ChainsView, title: str) -> dict[str, int]:
    return {choice.label: choice.count for one in found.facets if one.title == title for choice in one.choices}


def test_facets_have_their_counts_and_their_addresses_toggle(tmp_path: Path) -> None:
    found = view(tmp_path, {"type": "named", "step": "1", "step_to": "2", "page": "1"})
    assert facet(found, "Task type") == {"named": 3, "two step": 1}
    assert facet(found, "Stop reason") == {"answered": 2, "error": 1}
    assert facet(found, "Used for") == {"training": 2, "validation": 1}
    chosen = next(c for f in found.facets for c in f.choices if c.chosen)
    assert chosen.label == "named"
    assert "type" not in parse_qs(urlsplit(chosen.address).query), "it is dropped by the same link"
    other = next(c for f in found.facets for c in f.choices if c.label == "two step")
    assert parse_qs(urlsplit(other.address).query) == {"type": ["two_step"], "step": ["1"], "step_to": ["2"]}


def test_a_facet_without_a_choice_is_not_shown(tmp_path: Path) -> None:
    found = view(tmp_path, {}, line("a"), line("b"))
    assert [one.title for one in found.facets] == ["Tool"]


def test_chips_name_the_filters_and_drop_them(tmp_path: Path) -> None:
    query = {"text": "Star", "type": "named", "step": "1", "score_from": "0", "score_to": "20.5", "validate": "0"}
    found = view(tmp_path, query)
    assert [chip.label for chip in found.chips] == ["“Star”", "named", "training", "step 1", "score 0 to 20.5"]
    assert found.total == 1
    assert found.chips[0].without is None, "nothing is counted where rows are shown"
    assert "score" not in found.chips[-1].address


def test_an_empty_result_tells_which_filter_to_drop(tmp_path: Path) -> None:
    found = view(tmp_path, {"type": "two_step", "alarm": "failed"})
    assert [(chip.label, chip.without) for chip in found.chips] == [("two step", 1), ("failed", 1)]
    with serving(tmp_path / "run") as client:
        page = client.get("/runs/run/chains?type=two_step&alarm=failed").text
    assert "without two step 1 chain without failed 1 chain" in text_of(page)


def test_a_page_beyond_the_last_one_shows_the_last(tmp_path: Path) -> None:
    found = view(tmp_path, {"page": "900", "size": "25"}, *(line(str(n)) for n in range(30)))
    assert (found.first, found.last, len(found.rows)) == (26, 30, 5)
    assert found.later == ""
    assert found.earlier == "/runs/run/chains?size=25"


def test_columns_sort_and_turn_around(tmp_path: Path) -> None:
    columns = {column.title: column for column in view(tmp_path, {"sort": "score"}).columns}
    assert columns["Score"].order == "descending"
    assert columns["Score"].address == "/runs/run/chains?sort=score&down=0"
    assert columns["Task"].address == "/runs/run/chains?sort=task&down=0", "words begin with A"
    assert columns["Tokens"].order == "none"


def test_the_form_hands_on_what_it_does_not_show(tmp_path: Path) -> None:
    kept = view(
        tmp_path, {"type": "named", "sort": "score", "text": "x", "size": "25", "page": "3", "validate": "0"}
    ).kept
    assert dict(kept) == {"type": "named", "sort": "score", "down": "1", "validate": "0"}


def test_the_page_links_chains_groups_and_pages(tmp_path: Path) -> None:
    run_of(tmp_path / "run", *LINES)
    with serving(tmp_path / "run") as client:
        answer = client.get("/runs/run/chains?sort=score")
        assert answer.status_code == 200
        assert "1 to 4 of 4" in text_of(answer.text)
        assert links_of(answer.text, "/chains/2") == ["/runs/run/chains/2?sort=score"]
        assert 'data-group="/runs/run/group?task=task-b&amp;step=1&amp;part=1"' in answer.text
        for address in links_of(answer.text, "/chains?"):
            assert client.get(address).status_code == 200, address


def test_hostile_texts_are_escaped(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    run_of(
        tmp_path / "run",
        line("a", instruction=evil * 3, type=evil, tool=evil, group=evil, task=evil, answer=evil),
        line(evil, score=1e308, type="</style>"),
    )
    with serving(tmp_path / "run") as client:
        for address in (
            "chains",
            "chains?type=%22%3E%3Cscript%3E",
            "groups",
            "group?task=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        ):
            answer = client.get(f"/runs/run/{address}")
            assert "<script>alert" not in answer.text, address
            assert "<script>" not in answer.text, address
        assert client.get("/runs/run/group", params={"task": evil}).status_code == 200


@pytest.mark.slow
def test_long_texts_leave_the_page_small(tmp_path: Path) -> None:
    long = "W" * 100_000
    run_of(
        tmp_path / "run", *(line(f"{n}{long}", instruction=long, type=long, tool=long, task=long) for n in range(30))
    )
    with serving(tmp_path / "run") as client:
        for address in ("chains?size=200", "groups"):
            page = client.get(f"/runs/run/{address}").text
            assert len(page) < 300_000, address


def test_a_full_page_is_small(tmp_path: Path) -> None:
    run_of(
        tmp_path / "run",
        *(line(str(n), type=f"type {n % 20}", instruction="Remove the star " * 20) for n in range(220)),
    )
    with serving(tmp_path / "run") as client:
        page = client.get("/runs/run/chains?size=200").text
    assert page.count("<tr data-n") == 200
    assert len(page) < 300_000


def test_a_run_without_chains_says_so_and_new_ones_appear(tmp_path: Path) -> None:
    _, file = run_of(tmp_path / "run")
    with serving(tmp_path / "run") as client:
        page = client.get("/runs/run/chains").text
        assert "No chain has ended yet" in text_of(page)
        before = client.get("/runs/run/revision").json()
        append(file, line("a"), b'{"torn')
        after = client.get("/runs/run/revision").json()
        assert after["revision"] != before["revision"]
        assert (after["chains"], after["complete"]) == (1, True)
        assert "1 to 1 of 1" in text_of(client.get("/runs/run/chains").text)


def test_while_a_long_run_is_read_the_page_says_that_the_newest_chains_are_missing(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path / "run", *LINES)
    opened = OpenRun(run)
    state = opened.up_to_date(60.0)

    def shown(state: State, **filters: str) -> str:
        context = Context(Viewer([]), opened, state, opened.links(), ViewerSettings())
        return text_of(page(context, Filters.read(filters)).render("chains.html.jinja"))

    whole = shown(state)
    assert "1 to 4 of 4" in whole
    assert "so far" not in whole
    begun = replace(state, read=999, size=1000)
    assert "1 to 4 of 4 read so far 99 % of the run is read so far." in shown(begun)
    assert "its newest chains are not in the table yet" in shown(begun)
    assert "none of 4 read so far" in shown(begun, text="nobody says this")


def test_damaged_lines_are_told(tmp_path: Path) -> None:
    run_of(tmp_path / "run", line("a"), b"broken\n")
    with serving(tmp_path / "run") as client:
        assert "1 damaged line of the run is left out" in text_of(client.get("/runs/run/chains").text)


@pytest.mark.parametrize(
    "query", ["part=99", "step=x", "score_from=nan", "validate=7", "sort=%00", "text=%00", "type=%F0%9F"]
)
def test_odd_queries_are_answered(tmp_path: Path, query: str) -> None:
    run_of(tmp_path / "run", *LINES)
    with serving(tmp_path / "run") as client:
        assert client.get(f"/runs/run/chains?{query}").status_code == 200


def test_chains_that_were_read_are_shown_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of(tmp_path / "run", line("a"))
    with serving(tmp_path / "run") as client:
        assert client.get("/runs/run/chains").status_code == 200

        def refuse(*_: object) -> bool:
            raise ConfigError("the index cannot be written: make room on the disk")

        monkeypatch.setattr(Index, "refresh", refuse)
        words = text_of(client.get("/runs/run/chains").text)
        assert "Nothing new can be read: the index cannot be written: make room on the disk." in words
        assert "1 to 1 of 1" in words


def test_a_run_that_was_removed_is_told(tmp_path: Path) -> None:
    run_of(tmp_path / "run", line("a"))
    with serving(tmp_path / "run") as client:
        client.get("/runs/run/chains")
        shutil.rmtree(tmp_path / "run")
        for address in ("chains", "groups", "group?task=task-a", "revision"):
            answer = client.get(f"/runs/run/{address}")
            assert answer.status_code == 404, address
            assert "is gone" in answer.text, address
        assert not (tmp_path / "run").exists(), "looking at it makes no folder"
        run_of(tmp_path / "run", line("b"), line("c"))
        assert "1 to 2 of 2" in text_of(client.get("/runs/run/chains").text)


def test_a_run_that_kept_no_images_asks_for_none(tmp_path: Path) -> None:
    run_of(tmp_path / "run", line("a"))
    with serving(tmp_path / "run") as client:
        page = client.get("/runs/run/chains").text
        assert "The images of these chains were not kept" in text_of(page)
        assert "/thumbs/" not in page
        (tmp_path / "run" / "images").mkdir()
        (tmp_path / "run" / "images" / "img_000000000001.png").touch()
        assert "/runs/run/thumbs/1/img_000000000001.webp" in client.get("/runs/run/chains").text
