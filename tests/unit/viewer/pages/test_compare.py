"""The page that compares two runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.viewer.made import line, links_of, run_of, serving, text_of


def write(folder: Path, scores: dict[str, float]) -> Path:
    run_of(folder, *(line(f"c-{task}", task=task, score=v, step=None, validate=None) for task, v in scores.items()))
    return folder


@pytest.mark.slow
def test_two_runs_are_compared_with_the_interval_on_top(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {str(n): 40.0 for n in range(12)})
    b = write(tmp_path / "b", {str(n): 90.0 for n in range(10)})
    with serving(a, b) as client:
        page = client.get("/compare?a=a&b=b")
        words = text_of(page.text)
        assert "b is 50.0 points better than a" in words
        assert "95 % interval +50.0 to +50.0, over 10 tasks that both have" in words
        assert "2 tasks only a has 10, 11" in words
        assert words.index("points better") < words.index("b better 10 a better 0")
        assert "/runs/a/chains/1" in links_of(page.text)
        assert "/runs/b/chains/1" in links_of(page.text)
        assert "a is 50.0 points worse than b" in text_of(client.get("/compare?a=b&b=a").text)
        for address in links_of(page.text, "/compare?"):
            assert client.get(address).status_code == 200, address
        assert "No task of this kind" in text_of(client.get("/compare?a=a&b=b&show=a").text)


def test_the_page_says_the_names_of_the_runs(tmp_path: Path) -> None:
    a = write(tmp_path / "before <b>{a}", {str(n): 40.0 for n in range(3)})
    b = write(tmp_path / "after", {str(n): 90.0 for n in range(2)})
    with serving(a, b) as client:
        page = client.get("/compare?a=before-b-a&b=after").text
    words = text_of(page.partition("<main")[2].partition("<dialog")[0])
    assert "<b>{a}" not in page
    assert "Tasks Number before <b>{a} after Difference p better / tie / worse" in words
    assert f"Shown are {tmp_path.name}/before <b>{{a}} and {tmp_path.name}/after . A difference is after" in words
    assert "after better 2 before <b>{a} better 0" in words
    assert 'alt="result of after"' in page or 'aria-label="result of after: none"' in page
    # The letters are keys, and marks beside the names.
    assert (
        re.findall(r">([AB])</span> <bdi>([^<]*)<", page)
        == [
            ("A", "before &lt;b&gt;{a}"),
            ("B", "after"),
        ]
        * 2
    )
    assert not re.search(r"\b[AB] (is|less|better|has)\b", words)


def test_runs_are_chosen_on_the_page(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", {"x": 1.0}), write(tmp_path / "b", {"y": 1.0})
    with serving(a, b) as client:
        page = client.get("/compare").text
        assert page.count('<option value="a"') == 2
        assert "Choose two runs" in text_of(page)
        assert "have no task in common" in text_of(client.get("/compare?a=a&b=b").text)


def test_one_run_alone_is_compared_with_itself(tmp_path: Path) -> None:
    run_of(
        tmp_path / "run",
        line("v0", task="x", step=0, validate=True, score=10.0),
        line("v4", task="x", step=4, validate=True, score=30.0),
    )
    with serving(tmp_path / "run") as client:
        assert "validation at step 4 is 20.0 points better than validation at step 0" in text_of(
            client.get("/compare").text
        )
        assert "/compare" in links_of(client.get("/runs/run/chains").text)


def test_runs_and_parts_that_are_not_there_are_told(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"x": 1.0})
    run_of(tmp_path / "empty")
    with serving(a, tmp_path / "empty") as client:
        assert client.get("/compare?a=a&b=nobody").status_code == 404
        assert client.get("/compare?a=a&b=a&part_a=9&step_b=x&page=99&show=no&type=%00").status_code == 200
        answer = client.get("/compare?a=a&b=empty")
        assert answer.status_code == 404
        assert "has no chain yet" in text_of(answer.text)
