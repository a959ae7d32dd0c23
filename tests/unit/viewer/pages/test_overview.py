from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from agentfly.agents.trajectory_file import FILE_NAME
from agentfly.viewer.command import find_runs
from agentfly.viewer.opened import Viewer
from agentfly.viewer.server import create_app
from tests.unit.viewer.overview.made import add_chains, add_metrics, training
from tests.viewer_runs.hostile import hostile_run


class _Tags(HTMLParser):
    """Collects elements, and the ids and labels that are there twice."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(html)
    return parser.found


def client(*folders: Path) -> TestClient:
    return TestClient(create_app(Viewer(find_runs(folders))), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("runs")
    other = training(folder / "other", 4, learns=False)
    (other / "config.yaml").write_text("agentfly: {model: m, seed: 2}\ntrainer: {total_training_steps: 4}\n")
    with client(training(folder / "one"), other, hostile_run(folder / "hostile")) as opened:
        yield opened


@pytest.mark.slow
def test_the_page_answers_at_a_glance(pages: TestClient) -> None:
    html = pages.get("/runs/one/").text
    for words in (
        "The reward rose by",
        "Clearly better at named",
        "What a failure looks like",
        "What is wrong",
        "no tool made an image",
    ):
        assert words in html
    links = [attributes.get("href") or "" for tag, attributes in elements(html) if tag == "a"]
    assert "/runs/one/chains?step=7&step_to=8&validate=0&type=named" in links
    assert any(re.fullmatch(r"/runs/one/chains/\d+", link) for link in links)


def test_live_parts_have_ids_and_the_page_follows_the_run(pages: TestClient) -> None:
    found = elements(pages.get("/runs/one/").text)
    live = [attributes for _, attributes in found if "data-live" in attributes]
    assert len(live) >= 5
    assert all(attributes.get("id") for attributes in live)
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    body = next(attributes for tag, attributes in found if tag == "body")
    assert body["data-revision"] == pages.get("/runs/one/revision").json()["revision"]


@pytest.mark.parametrize("path", ["/runs/one/", "/runs/one/?against=other", "/runs/one/settings", "/runs/hostile/"])
def test_pages_need_nothing_that_the_policy_forbids(pages: TestClient, path: str) -> None:
    answer = pages.get(path)
    assert answer.status_code == 200
    assert len(answer.content) < 300_000
    for tag, attributes in elements(answer.text):
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "script" or str(attributes.get("src")).startswith("/static/")
        assert not str(attributes.get("href", "/")).startswith(("http", "javascript"))


def test_images_are_thumbnails(pages: TestClient) -> None:
    sources = [str(attributes["src"]) for tag, attributes in elements(pages.get("/runs/one/").text) if tag == "img"]
    assert sources
    assert all("/thumbs/" in source for source in sources)


def test_hostile_texts_are_shown_as_texts(pages: TestClient) -> None:
    html = pages.get("/runs/hostile/").text
    assert "<script>alert" not in html
    assert "onerror=alert(2)>" not in html.replace("&#34;", '"').replace("&gt;", "›")
    assert "&lt;script&gt;" in html
    assert "lines of the trajectories are damaged" in html
    assert "lines of metrics.jsonl are damaged" in html


def test_two_runs_are_compared_by_their_settings_and_curves(pages: TestClient) -> None:
    html = pages.get("/runs/one/?against=other").text
    assert "What changed against" in html
    assert "agentfly.seed" in html
    assert 'class="c1 dashed"' in html
    assert '<option value="other" selected>' in html


def test_a_run_that_is_not_there_is_not_compared_with(pages: TestClient) -> None:
    assert "What changed against" not in pages.get("/runs/one/?against=none").text
    assert "What changed against" not in pages.get("/runs/one/?against=one").text
    assert pages.get("/runs/none/").status_code == 404


def test_all_settings_have_a_page(pages: TestClient) -> None:
    html = pages.get("/runs/one/settings").text
    assert "trainer.total_training_steps" in html
    assert "2 settings" not in html
    assert "3 settings" in html


def test_every_metric_is_in_the_list(pages: TestClient) -> None:
    found = elements(pages.get("/runs/one/").text)
    names = [attributes["data-name"] for _, attributes in found if "data-name" in attributes]
    assert [str(name).split()[0] for name in names] == ["reward/mean", "timing_s/gen", "timing_s/step"]


def test_a_new_step_appears(tmp_path: Path) -> None:
    folder = training(tmp_path / "run", 2)
    with client(folder) as opened:
        before = opened.get("/runs/run/revision").json()["revision"]
        assert "step 2 of 2" in opened.get("/runs/run/").text
        add_chains(folder / FILE_NAME, {"named": [[99, 98]]}, 3)
        add_metrics(folder, 3, {"reward/mean": 0.98})
        assert opened.get("/runs/run/revision").json()["revision"] != before
        assert "step 3 of 2" in opened.get("/runs/run/").text


def test_an_empty_run_says_what_will_come(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("agentfly: {}\n")
    with client(tmp_path) as opened:
        slug = next(iter(opened.app.state.viewer.runs))  # type: ignore[attr-defined]
        html = opened.get(f"/runs/{slug}/").text
    assert "No chain is finished yet" in html
    assert "The page follows the run" in html


def test_a_run_without_images_asks_for_none(tmp_path: Path) -> None:
    add_chains(tmp_path / "run" / FILE_NAME, {"named": [[10], [90]]}, 1)
    (tmp_path / "run" / "config.yaml").write_text("agentfly: {}\n")
    with client(tmp_path / "run") as opened:
        html = opened.get("/runs/run/").text
    assert not [tag for tag, _ in elements(html) if tag == "img"]
    assert "the run kept no images" in html


def test_an_evaluation_shows_its_summary(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    add_chains(folder / FILE_NAME, {"named": [[10], [90]]}, validate=None)
    (folder / "settings.json").write_text(json.dumps({"model": "m", "evaluator": ["reference", "judge"]}))
    score = {"score": {"mean": 50.0, "low": 10.0, "high": 90.0}, "scored": 2, "not_scored": 1, "reasons": {"no <b>": 1}}
    figures = {
        "tasks": 2,
        "scores": {"reference": score, "judge": score},
        "success": {"mean": 0.5, "low": 0, "high": 1},
    }
    judge = {"judge": {"judge": {"requests": 7, "cost": None}}}
    summary = {"evaluators": ["reference", "judge"], "all": {**figures, **judge}, "by_type": {"named": figures}}
    (folder / "summary.json").write_text(json.dumps(summary))
    with client(folder) as opened:
        html = opened.get("/runs/run/").text
    assert "The mean score is 50 of 100 (95 % interval 10 to 90) on 2 tasks; 50% succeed." in html
    assert "1 × no &lt;b&gt;" in html
    assert "<dt>requests</dt><dd>7</dd>" in html
    assert "reference, judge" in html


def test_a_run_that_is_gone_is_an_error_page(tmp_path: Path) -> None:
    folder = training(tmp_path / "run", 1)
    with client(folder) as opened:
        opened.get("/runs/run/")
        folder.rename(tmp_path / "moved")
        answer = opened.get("/runs/run/")
    assert answer.status_code == 404
    assert "is gone" in answer.text


def test_a_trial_shows_its_metrics_and_what_training_would_say(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    add_chains(folder / FILE_NAME, {"named": [[10], [90]]}, validate=None)
    breaches = [{"metric": "no_op_edits", "words": "above 0.5", "action": "warn", "patience": 3}]
    metrics = {"reward/mean": 0.5, "health/no_op_edits": 0.75, "odd": "x"}
    (folder / "trial.json").write_text(json.dumps({"recipe": "r.yaml", "metrics": metrics, "breaches": breaches}))
    (folder / "settings.json").write_text(json.dumps({"model": "m", "agentfly": {"seed": 4}}))
    with client(folder) as opened:
        html = opened.get("/runs/run/").text
        settings = opened.get("/runs/run/settings").text
    assert "no op edits is 0.75, above 0.5" in html
    assert 'data-name="health/no_op_edits' in html
    assert 'data-name="odd' not in html
    assert "trial.recipe" in settings
    assert "agentfly.seed" in settings
