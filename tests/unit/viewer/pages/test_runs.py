"""The list of runs: how far each is, and how it follows them."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from agentfly.viewer.command import find_runs
from agentfly.viewer.opened import Viewer
from agentfly.viewer.pages import runs
from tests.unit.viewer.generated_runs import studio_run
from tests.unit.viewer.made import line, links_of, run_of, serving, text_of
from tests.unit.viewer.overview.made import add_chains, training

HOUR = 3600.0


def unfinished(folder: Path, error: str = "") -> Path:
    """Write a training run that is to have 20 steps, and has 2."""
    training(folder, 2)
    text = (folder / "config.yaml").read_text().replace("total_training_steps: 2", "total_training_steps: 20")
    (folder / "config.yaml").write_text(text)
    if error:
        (folder / "logs").mkdir()
        (folder / "logs" / "20300101.log").write_text(f"ray.exceptions.OutOfMemoryError: {error}\n")
    return folder


def age(folder: Path) -> None:
    """Let all files of a run be an hour old."""
    then = time.time() - HOUR
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def cards(page: str) -> dict[str, str]:
    """Return the text of each card by the name of its run."""
    found = re.findall(r'<li class="card run-card">(.*?)</li>', page, re.DOTALL)
    return {text_of(card).split()[0].rpartition("/")[2]: text_of(card) for card in found}


@pytest.mark.slow
def test_each_run_says_how_far_it_is(tmp_path: Path) -> None:
    finished, running = training(tmp_path / "finished", 2), unfinished(tmp_path / "running")
    failed, stopped = unfinished(tmp_path / "failed", "the <b>GPU</b> is full"), unfinished(tmp_path / "stopped")
    for folder in (failed, stopped):
        age(folder)
    evaluation = tmp_path / "evaluation"
    add_chains(evaluation / "trajectories.jsonl", {"named": [[10.0], [90.0]]}, validate=None)
    (evaluation / "settings.json").write_text("{}")
    (evaluation / "summary.json").write_text('{"chains": 2}')
    run_of(tmp_path / "agent", line("a", step=None, validate=None))
    age(tmp_path / "agent")
    folders = (finished, running, failed, stopped, evaluation, tmp_path / "agent", studio_run(tmp_path / "art").parent)
    with serving(*folders) as client:
        for folder in folders:  # what the list has no time for, it shows as it was read before
            client.get(f"/runs/{folder.name}/chains")
        page = client.get("/").text
        found = cards(page)
        assert "Finished, step 2 of 2 Training · 28 chains · changed 20" in found["finished"]
        assert "Running, step 2 of 20 Training · 28 chains" in found["running"]
        assert "Ended with an error, step 2 of 20" in found["failed"]
        assert "OutOfMemoryError: the <b>GPU</b> is full" in found["failed"]
        assert "<b>GPU" not in page
        assert "Stopped, step 2 of 20" in found["stopped"]
        assert "Finished Evaluation · 2 chains" in found["evaluation"]
        assert " Chains of an agent · 1 chain · changed" in found["agent"], "nothing tells whether more will come"
        assert "rounds Directors and generators · changed" in found["art"]
        # The overview says the same.
        for name in ("finished", "running", "failed", "stopped"):
            status = text_of(client.get(f"/runs/{name}/").text.partition('id="status" data-live>')[2])
            assert status.partition(" · ")[0].capitalize() in found[name]


def test_the_list_follows_its_runs(tmp_path: Path) -> None:
    one = training(tmp_path / "one", 2)
    with serving(one, unfinished(tmp_path / "two")) as client:
        page = client.get("/").text
        (shown,) = re.findall(r'data-revision="([^"]*)" data-poll="/revision"', page)
        assert client.get("/revision").json() == {"revision": shown}
        assert set(re.findall(r'id="([^"]*)" data-live', page)) == {"run-one", "run-two"}
        add_chains(one / "trajectories.jsonl", {"named": [[50.0]]}, 3)
        assert client.get("/revision").json()["revision"] != shown
        assert "29 chains" in cards(client.get("/").text)["one"]
        shutil.rmtree(one)
        answer = client.get("/")
        assert answer.status_code == 200, "one run that is gone hides no other"
        assert "is gone" in cards(answer.text)["one"]
        assert "/runs/two/" in links_of(answer.text)


def test_a_list_of_many_runs_is_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [run_of(tmp_path / f"run{number}", line("a"))[0].path for number in range(12)]
    viewer = Viewer(find_runs(folders))
    # Without time nothing is read, and no run waits for the others.
    assert [row.progress for row in runs.rows_of(viewer, 0.0)] == [None] * 12
    assert not list(tmp_path.glob("*/.view/*"))
    first = runs.rows_of(viewer, 600.0)
    assert [row.chains for row in first] == [1] * 12
    asked = 0

    def count(*_: object) -> None:
        nonlocal asked
        asked += 1

    monkeypatch.setattr(runs, "progress_of", count)
    monkeypatch.setattr("time.time", lambda: 0.0)  # another minute: all are looked at again, once
    for _ in range(3):
        runs.rows_of(viewer, 600.0)
    assert asked == 12
    viewer.close()
