"""The page Rate: what it shows and hides, and what its posts are checked for."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from agentfly.viewer import ratings as ratings_module
from agentfly.viewer.ratings import Rating, Ratings
from agentfly.viewer.runs import find_run
from agentfly.viewer.server import create_app
from tests.unit.viewer.small_runs import view_of, write_run

OWN = {"X-Agentfly": "view"}
ASKED = "Remove the <b>star</b>"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", [[10, 90], [20, 80]], instruction=ASKED)


@pytest.fixture
def client(run: Path, tmp_path: Path) -> Iterator[TestClient]:
    other = write_run(tmp_path / "other", [[30], [40]], shade=9, instruction=ASKED)
    with TestClient(create_app(view_of(run, other)), raise_server_exceptions=False) as client:
        yield client


def shown(page: Any) -> list[dict[str, Any]]:
    """What the page sends back about the results that it shows."""
    assert page.status_code == 200, page.text
    found = re.search(r'data-results="([^"]*)"', page.text)
    assert found is not None
    results: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    return results


def give(client: TestClient, query: str = "", **values: Any) -> Any:
    """Rate what the page shows."""
    results = shown(client.get(f"/runs/run/rate?{query}"))
    return client.post("/runs/run/rate", json={"results": results, **values}, headers=OWN)


def kept(run: Path) -> list[Rating]:
    return Ratings(find_run(run, "run")).read()[0]


def test_the_page_shows_two_results_without_a_hint_at_whose_they_are(client: TestClient) -> None:
    page = client.get("/runs/run/rate?other=other")
    assert "Remove the &lt;b&gt;star&lt;/b&gt;" in page.text
    assert "0 of 2 tasks" in page.text
    assert {result["slug"] for result in shown(page)} == {"run", "other"}
    # What a person can read: neither the names of the runs, outside of menu and form, nor scores.
    seen = page.text.split('<div class="rate-views pair">')[1].split('<section id="rate-kept">')[0]
    words = " ".join(re.sub(r"<[^>]*>", " ", seen).split())
    assert words.startswith("Before Left Right ← Left is better")
    assert not re.search(r"run|other|task-|score|10|90", words)
    alts = re.findall(r'alt="([^"]*)"', seen)
    assert alts == ["Before", "Left", "Right"]
    # Each of the two runs serves the images that are its own.
    images = re.findall(r'(?:src|data-full)="(/runs/[^"]*)"', seen)
    assert len(images) == 6
    assert {client.get(address).status_code for address in images} == {200}


@pytest.mark.parametrize(("verdict", "better"), [("left", 0), ("right", 1)])
def test_the_side_of_a_verdict_is_that_of_the_page(client: TestClient, run: Path, verdict: str, better: int) -> None:
    results = shown(client.get("/runs/run/rate?rater=ann"))
    sent = {"results": results, "verdict": verdict, "words": " sharp ", "rater": "ann", "seconds": 3.21}
    assert client.post("/runs/run/rate", json=sent, headers=OWN).status_code == 200
    (rating,) = kept(run)
    ids = [chain.chain for chain in rating.chains]
    assert ids == sorted(ids)
    assert rating.chains[rating.left].chain == results[0]["chain"]
    winner = rating.chains[0 if rating.verdict == "better" else 1].chain
    assert winner == results[better]["chain"]
    assert (rating.words, rating.rater, rating.seconds) == ("sharp", "ann", 3.21)


def test_rating_goes_on_to_the_end_and_back(client: TestClient, run: Path) -> None:
    first = shown(client.get("/runs/run/rate"))
    assert give(client, verdict="tie").status_code == 200
    assert shown(client.get("/runs/run/rate")) != first
    assert give(client, verdict="skip").status_code == 200
    page = client.get("/runs/run/rate")
    assert "That was the last one" in page.text
    assert "skipped 1 times" in page.text
    undone = client.post("/runs/run/rate/undo", json={"rater": "me"}, headers=OWN)
    assert undone.status_code == 200
    assert "1 of 2 tasks" in client.get("/runs/run/rate").text
    assert shown(client.get("/runs/run/rate?rater=ann"))  # another rater begins anew
    assert client.post("/runs/run/rate/undo", json={"rater": "ann"}, headers=OWN).status_code == 409


def test_single_results_are_scored(client: TestClient, run: Path) -> None:
    assert give(client, "mode=single", score=85, words="").status_code == 200
    assert [rating.score for rating in kept(run)] == [85]
    assert "1 of 4 results" in client.get("/runs/run/rate?mode=single").text


def test_filters_of_the_address_choose_and_stay(client: TestClient) -> None:
    page = client.get("/runs/run/rate?task=task-1&mode=single")
    assert "0 of 2 results" in page.text
    assert '<input type="hidden" name="task" value="task-1">' in page.text
    assert "task=task-1&amp;mode=pair" in page.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"X-Agentfly": "other"}, 403),
        ({**OWN, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**OWN, "Sec-Fetch-Site": "same-site"}, 403),
        ({**OWN, "Content-Type": "text/plain"}, 415),
        ({**OWN, "Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_pages_of_other_sites_cannot_rate(client: TestClient, run: Path, headers: dict[str, str], status: int) -> None:
    results = shown(client.get("/runs/run/rate"))
    body = json.dumps({"results": results, "verdict": "tie"})
    given = {"Content-Type": "application/json", **headers}
    answer = client.post("/runs/run/rate", content=body, headers=given)
    assert answer.status_code == status
    assert "error" in answer.json()
    assert kept(run) == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"[" * 50_000, b'{"results": 1}', b'{"results": []}', b'{"results": [1]}', b"x" * 70_000]
)
def test_broken_bodies_are_refused_with_words(client: TestClient, body: bytes) -> None:
    answer = client.post("/runs/run/rate", content=body, headers={**OWN, "Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "values",
    [
        {"verdict": "better"},
        {"verdict": "worse"},
        {"verdict": ["left"]},
        {"verdict": None},
        {"verdict": "left", "score": 5},
        {"verdict": "tie", "words": "x" * 1001},
    ],
)
def test_wrong_verdicts_are_refused(client: TestClient, run: Path, values: dict[str, Any]) -> None:
    assert give(client, **values).status_code == 400
    assert kept(run) == []


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"n": 99}, 409),
        ({"n": 2**70}, 409),
        ({"n": "1"}, 409),
        ({"chain": "other"}, 409),
        ({"image": "img_000000000000"}, 409),
        ({"slug": "nowhere"}, 409),
    ],
)
def test_results_that_are_not_what_was_shown_are_refused(
    client: TestClient, run: Path, changes: dict[str, Any], status: int
) -> None:
    one, other = shown(client.get("/runs/run/rate"))
    sent = {"results": [one, {**other, **changes}], "verdict": "left"}
    answer = client.post("/runs/run/rate", json=sent, headers=OWN)
    assert answer.status_code == status
    assert "reload the page" in answer.json()["error"]
    assert kept(run) == []


def test_a_full_disk_is_said_and_the_verdict_can_be_given_again(
    client: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, line: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(ratings_module, "append_shared", full)
        answer = give(client, verdict="tie")
    assert answer.status_code == 507
    assert "No space left on device" in answer.json()["error"]
    assert "Your verdict is still here" in answer.json()["error"]
    assert give(client, verdict="tie").status_code == 200
    assert len(kept(run)) == 1


def test_hostile_words_are_shown_as_words(client: TestClient) -> None:
    name = "<script>alert(1)</script>"
    page = client.get("/runs/run/rate", params={"rater": name, "text": '"><script>', "other": "<script>", "mode": "x"})
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert give(client, "mode=single", score=1, rater=name, words="<img src=x>").status_code == 200
    assert "<img src=x>" not in client.get("/runs/run/rate").text


@pytest.mark.slow
def test_agreement_appears_with_ten_verdicts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[float(n), 50.0 + n] for n in range(10)])
    with TestClient(create_app(view_of(run))) as client:
        for number in range(10):
            page = client.get("/runs/run/rate")
            assert f"{number} verdict" in page.text
            results = shown(page)
            best = "left" if results[0]["chain"].endswith("-1") else "right"
            client.post("/runs/run/rate", json={"results": results, "verdict": best}, headers=OWN)
        text = client.get("/runs/run/rate").text
    assert "100 % " in text
    assert "0 % " in text  # of the judge, which sees it the other way round


@pytest.mark.parametrize(
    ("scores", "words"),
    [([], "No chain has ended yet"), ([[1]], "No task has two different results"), ([[1, 2]], "has both its images")],
)
def test_nothing_to_rate_says_why(tmp_path: Path, scores: list[list[float]], words: str) -> None:
    run = write_run(tmp_path / "run", scores)
    (run / "trajectories.jsonl").touch()
    if scores == [[1, 2]]:
        for image in (run / "images").iterdir():
            image.unlink()
    with TestClient(create_app(view_of(run))) as client:
        assert re.search(words, client.get("/runs/run/rate?mode=pair").text)


def test_a_read_only_run_is_said(client: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be written to" not in client.get("/runs/run/rate").text
    monkeypatch.setattr("agentfly.viewer.ratings.os.access", lambda path, _: ".view" in str(path))
    assert "The run&#39;s folder cannot be written to" in client.get("/runs/run/rate").text.replace("'", "&#39;")
