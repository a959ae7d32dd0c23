"""The page of a chain, by HTTP."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from agentfly.agents.trajectory import ToolRecord
from agentfly.agents.trajectory_file import FILE_NAME
from agentfly.evaluators import Score
from agentfly.viewer.command import find_runs
from agentfly.viewer.opened import Viewer
from agentfly.viewer.server import create_app
from agentfly.viewer.settings import ViewerSettings
from tests.unit.viewer.chain.lines import (
    POLICY,
    edit,
    line_of,
    picture,
    run_of,
    store_of,
    trajectory,
    with_tokens,
)
from tests.unit.viewer.made import text_of

OWN = {"x-agentfly": "view"}
MARKUP = "<script>alert(1)</script>\"'><img src=x>"


@dataclass(frozen=True)
class Pages:
    """A client of a viewer on one run."""

    client: TestClient
    folder: Path

    def get(self, path: str) -> str:
        response = self.client.get(f"/runs/run/chains/{path}")
        assert response.status_code == 200, response.text
        assert len(response.content) < 300_000
        return response.text


def pages_of(folder: Path, lines: list[Any], config: Any = None, **settings: Any) -> Pages:
    """Return the pages of a run that is made of lines."""
    run_of(folder, lines, config).close()
    app = create_app(Viewer(find_runs([folder])), ViewerSettings(**settings))
    return Pages(TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False), folder)


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    folder = tmp_path / "run"
    store = store_of(folder)
    chains = [
        replace(with_tokens(trajectory(store, reward=reward)), id=f"c{place}", group_id="g", score=100 * reward)
        for place, reward in enumerate((0.25, 1.0, 0.5))
    ]
    lines = [line_of(chain) for chain in chains]
    config = {"agentfly": {"model": str(POLICY), "engines": "classical"}, "algorithm": {"adv_estimator": "grpo"}}
    return pages_of(folder, lines, config)


def test_a_page_has_tokens_images_calls_and_the_advantage(pages: Pages) -> None:
    html = pages.get("1")
    assert "Remove the red disc." in html
    assert 'class="badge bad" title="advantage' in html
    assert 'title="-0.500 · ' in html
    assert "&lt;|im_end|&gt;" in html
    assert "9 tokens, seen at 84×84" in html
    assert html.count("data-rerun=") == 3  # each of two calls, and all of them
    # Thumbnails only; full images are addresses for later.
    assert re.findall(r'<img[^>]*src="([^"]*\.png)"', html) == []
    assert "data-before=" in html
    assert "computed here" in html.lower()


def test_a_page_says_which_number_is_reward_and_which_is_advantage(pages: Pages) -> None:
    text = text_of(pages.get("1"))
    # The parts in this line do not make its reward of 0.25, so nothing is said of how they do.
    assert "Reward 0.25 Parts of the reward edit the score, divided by 100 +0.500 Advantage -0.87" in text
    assert "standard deviations, all turns Its reward less the mean of the 3 chains" in text
    assert "Above 0, the sampled tokens become likelier; below 0, less likely." in text
    assert "Rewards of the 3 chains of its group; its own is marked. 0.25 1 0.5" in text


def test_a_page_has_cache_credit_and_audit(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    chain = trajectory(store, [[edit(store.put(picture()), store.put(picture(None)), cached=True)], []])
    line = replace(line_of(chain), credit=(0.75, -0.25), scores={"audit": Score(50.0)})
    unscored = replace(line, trajectory=replace(chain, id="c", score=None))
    pages = pages_of(tmp_path / "run", [line, unscored])
    html = pages.get("1")
    assert ">cached</span>" in html
    assert "part of the reward +0.75" in html
    assert "part of the reward -0.25" in html
    assert re.search(r"<h3>Audit\s.*50.*-30\.0", html, re.S)
    assert "Audit" in pages.get("2")
    run = run_of(tmp_path / "run", [])
    assert [(run.index.row(n).score, run.index.row(n).scorer) for n in (1, 2)] == [(80.0, ""), (None, "")]
    run.close()


def test_neighbours_follow_the_filters_of_the_table(pages: Pages) -> None:
    html = pages.get("1?sort=score&down=1")  # 1.0, 0.5, 0.25
    assert re.search(r'rel="prev" href="/runs/run/chains/3\?sort=score"', html)
    assert 'rel="next"' not in html
    assert "3 of 3" in html
    html = pages.get("3?score_from=40")
    assert re.search(r'rel="next" href="/runs/run/chains/2\?score_from=40.0"', html)
    assert "1 of 2" in html
    assert 'href="/runs/run/chains?score_from=40.0"' in html
    html = pages.get("1?score_from=40")  # filtered out: no neighbours, but a page
    assert 'rel="next"' not in html
    assert 'rel="prev"' not in html


def test_the_raw_line_and_a_single_turn(pages: Pages) -> None:
    raw = pages.client.get("/runs/run/chains/1/raw")
    assert raw.text == (pages.folder / FILE_NAME).read_text().splitlines(keepends=True)[0]
    assert raw.headers["content-type"].startswith("text/plain")
    assert 'id="turn-2"' in pages.get("1/turns/2")
    assert pages.client.get("/runs/run/chains/1/turns/3").status_code == 404
    assert pages.client.get("/runs/run/chains/9").status_code == 404
    assert pages.client.get("/runs/run/chains/1/text/0").status_code == 404


def test_calls_are_run_again_for_pages_of_the_viewer_alone(pages: Pages) -> None:
    address = "/runs/run/chains/1/rerun?turn=2&call=1"
    assert pages.client.post(address).status_code == 403
    foreign = {**OWN, "sec-fetch-site": "cross-site"}
    assert pages.client.post(address, headers=foreign).status_code == 403
    assert pages.client.get(address).status_code == 405
    found = pages.client.post(address, headers=OWN)
    assert found.status_code == 200
    assert found.json()["equal"] is True
    found = pages.client.post("/runs/run/chains/1/rerun?turn=7&call=1", headers=OWN)
    assert found.status_code == 409
    assert "no such call" in found.json()["error"]
    assert pages.client.post("/runs/run/chains/99/rerun", headers=OWN).status_code == 404
    assert pages.client.post("/runs/none/chains/1/rerun", headers=OWN).status_code == 404


def test_without_the_tokenizer_a_page_says_how_to_name_one(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    chain = line_of(with_tokens(trajectory(store)))
    html = pages_of(tmp_path / "run", [chain], {"agentfly": {"model": "some/hub-name"}}).get("1")
    assert "agentfly view --tokenizer FOLDER" in html
    assert "turn 0" in html
    assert "l3" in html
    html = pages_of(tmp_path / "named" / "run", [chain], {}, tokenizer=str(POLICY)).get("1")
    assert "--tokenizer" not in html
    assert "&lt;|im_end|&gt;" in html
    assert "is not known: the settings of its image processor are not on this machine" in html


def test_missing_images_are_said_with_the_setting_that_keeps_them(tmp_path: Path) -> None:
    store = store_of(tmp_path / "elsewhere")
    html = pages_of(tmp_path / "run", [line_of(trajectory(store))]).get("1")
    assert "agentfly.images" in html
    assert "not kept" in html
    assert "/thumbs/" not in html


def test_an_argument_of_a_megabyte_is_cut_and_can_be_asked_for(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    source, result = store.put(picture()), store.put(picture(None))
    record = edit(source, result, arguments={"prompt": "A" * 1_000_000})
    pages = pages_of(tmp_path / "run", [line_of(trajectory(store, [[record]]))])
    html = pages.get("1")
    (address,) = re.findall(r'data-whole="([^"]*/text/\d+)"', html)
    assert "999,400 characters more" in html
    assert "A" * 700 not in html
    assert pages.client.get(address).text == "A" * 1_000_000


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    source, result = store.put(picture()), store.put(picture(None))
    record = edit(source, result, name=MARKUP, arguments={MARKUP: MARKUP}, engine=MARKUP, error=MARKUP)
    chain = trajectory(
        store, [[record]], id=MARKUP, answer=MARKUP, error=MARKUP, names={MARKUP: result}, aspects={MARKUP: 0.5}
    )
    chain.turns = [replace(chain.turns[0], text=MARKUP, finish_reason=MARKUP)]
    html = pages_of(tmp_path / "run", [line_of(chain)]).get("1")
    assert "<script>alert" not in html
    assert "<img src=x>" not in html
    assert html.count("&lt;script&gt;alert") > 5


def test_images_named_by_paths_are_not_looked_for(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    chain = trajectory(store, final_image="../../etc/passwd", images=["/etc/passwd"], names={"img_1": "../x"})
    html = pages_of(tmp_path / "run", [line_of(chain)]).get("1")
    assert "passwd" not in html.partition('id="raw"')[0].replace("not kept", "")


def test_a_long_chain_brings_its_later_turns_on_demand(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    source, result = store.put(picture()), store.put(picture(None))
    chain = with_tokens(trajectory(store, [[edit(source, result)] for _ in range(100)]))
    pages = pages_of(tmp_path / "run", [line_of(chain)], {}, tokenizer=str(POLICY))
    html = pages.get("1")
    assert html.count("data-fetch=") == 70
    assert html.count('class="call"') == 30
    assert 'class="call"' in pages.get("1/turns/100")


@pytest.mark.parametrize(
    "changes",
    [
        {"turns": []},
        {"turns": [], "messages": [], "images": [], "names": {}, "final_image": None, "stop_reason": None},
        {"score": None, "reward": None, "aspects": {}, "reward_parts": {}},
        {"score": float("nan"), "reward": float("inf"), "reward_parts": {"a": float("nan")}, "seconds": float("nan")},
    ],
)
def test_poor_chains_have_pages(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = store_of(tmp_path / "run")
    html = pages_of(tmp_path / "run", [line_of(trajectory(store, **changes))]).get("1")
    assert "Remove the red disc." in html


def test_a_malformed_call_offers_no_rerun(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    record = ToolRecord("", {}, 0.0, error="not JSON", malformed=True)
    html = pages_of(tmp_path / "run", [line_of(trajectory(store, [[record]]))]).get("1")
    assert "malformed" in html
    assert "turn=1&amp;call=1" not in html


def test_values_of_odd_types_are_told(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run")
    pages = pages_of(tmp_path / "run", [line_of(trajectory(store, names=["img_1"], aspects=3, metadata=[]))])
    response = pages.client.get("/runs/run/chains/1")
    assert response.status_code == 404
    assert "types that no trajectory has" in response.text


def test_a_line_that_is_no_chain_any_more_is_an_error_page(pages: Pages) -> None:
    lines = (pages.folder / FILE_NAME).read_text()
    assert pages.client.get("/runs/run/chains/1").status_code == 200
    (pages.folder / FILE_NAME).write_text(json.dumps({"nothing": 1}) + "\n" + lines)
    assert pages.client.get("/runs/run/chains/1").status_code in (200, 404)
    assert "Traceback" not in pages.client.get("/runs/run/chains/1").text
