"""Runs of image generation: what is read, what is shown, and which files are served."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from agentfly.errors import ConfigError
from agentfly.viewer.command import find_runs
from agentfly.viewer.links import ServerLinks
from agentfly.viewer.opened import Viewer
from agentfly.viewer.pages.iterations import MOST_ROUNDS, PREVIEW_BYTES, marked, page
from agentfly.viewer.runs.folder import find_run
from agentfly.viewer.runs.generated import read_record, records
from agentfly.viewer.server import create_app
from tests.unit.viewer.generated_runs import refinement_run, studio_run


@contextmanager
def serving(*runs: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Viewer(find_runs(runs))), base_url="http://127.0.0.1") as client:
        yield client


def rewrite(record: Path, **changes: Any) -> None:
    record.write_text(json.dumps(json.loads(record.read_text("utf-8")) | changes), encoding="utf-8")


def first_image_is(record: Path, name: str) -> None:
    """Have a record of directors and generators name another file for its first image."""
    found = json.loads(record.read_text("utf-8"))
    next(phase for phase in found["phases"] if phase["images"])["images"][0]["file"] = name
    record.write_text(json.dumps(found), encoding="utf-8")


def test_both_kinds_of_run_are_known(tmp_path: Path) -> None:
    assert find_run(refinement_run(tmp_path / "a"), "a").kind == "generate"
    record = studio_run(tmp_path / "b")
    for path in (record, record.parent):
        run = find_run(path, "b")
        assert (run.kind, run.folder, list(records(run))) == ("director-generator", record.parent, [record.stem])


def test_other_json_files_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"id": "b", "prompt": ""}')
    (tmp_path / "c.json").write_text("[]")
    os.mkfifo(tmp_path / "d.json")
    with pytest.raises(ConfigError, match="is no run"):
        find_run(tmp_path, "x")


def test_a_refinement(tmp_path: Path) -> None:
    folder = refinement_run(tmp_path / "a")
    found = read_record("generate", folder / "result.json")
    assert (found.prompt, found.status, found.seconds, found.running) == ("a red star", "threshold", 12.5, False)
    assert [(a.score, a.fault, a.best) for a in found.attempts] == [
        (40.0, None, False),
        (None, "refused: moderation", False),
        (92.0, None, True),
    ]
    assert found.attempts[0].critiques[0].text == "Dull."
    judge = next(usage for usage in found.usage if usage.role == "judge")
    assert (judge.requests, judge.input_tokens, judge.output_tokens) == (2, 900, 60)


def test_the_best_of_a_refinement_is_known_after_an_upload(tmp_path: Path) -> None:
    record = refinement_run(tmp_path / "a") / "result.json"
    rewrite(record, best_image_url="s3://bucket/a.png")
    best = read_record("generate", record).best
    assert best is not None
    assert best.number == 2


def test_a_run_of_directors_and_generators(tmp_path: Path) -> None:
    found = read_record("director-generator", studio_run(tmp_path))
    assert [(one.number, len(one.attempts)) for one in found.rounds] == [(1, 2), (2, 2)]
    assert (found.briefs, found.status) == ((("Story", "A whole boat."),), "max_loops")
    assert found.best is not None
    assert (found.best.who, found.best.number, found.best.score) == ("Plain", 2, 52.0)
    assert (found.attempts[1].file, found.attempts[1].fault) == (None, "no image server")
    assert found.rounds[0].seconds == {"paint": 3.0}


@pytest.mark.parametrize("text", ["{", '{"prompt": 1}', "[" * 100_000, '{"prompt": "x", "phases": [{"phase": "p"}]}'])
def test_a_damaged_record_is_an_error_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    for kind in ("generate", "director-generator"):
        with pytest.raises(ConfigError, match=r"x\.json"):
            read_record(kind, tmp_path / "x.json")


def test_a_record_without_an_end_is_no_file_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentfly.viewer.runs.generated.LARGEST_RECORD", 100)
    with pytest.raises(ConfigError, match="has more than"):
        read_record("generate", refinement_run(tmp_path / "a") / "result.json")


def test_the_pages_and_their_images(tmp_path: Path) -> None:
    studio = studio_run(tmp_path / "b")
    with serving(refinement_run(tmp_path / "a", side=640), studio.parent) as client:
        answer = client.get("/runs/a/")
        assert answer.url.path == "/runs/a/iterations"
        for words in (
            "a red star",
            "Dull.",
            "refused: moderation",
            "chosen",
            "good enough",
            "/runs/a/made/result/2.webp",
        ):
            assert words in answer.text
        small, whole = client.get("/runs/a/made/result/2.webp"), client.get("/runs/a/made/result/2")
        assert (small.headers["content-type"], whole.headers["content-type"]) == ("image/webp", "image/png")
        assert len(small.content) <= PREVIEW_BYTES
        assert Image.open(BytesIO(small.content)).size == (512, 512)
        assert whole.content == (tmp_path / "a" / "iteration_3.png").read_bytes()
        answer = client.get("/runs/b/iterations")
        for words in ("Story", "A whole boat.", "The boat is cut off.", "no image server", "You direct for meaning."):
            assert words in answer.text
        assert (
            client.get(f"/runs/b/made/{studio.stem}/0").content
            == (studio.parent / studio.stem / "loop01_plain.png").read_bytes()
        )


def test_several_runs_share_a_folder(tmp_path: Path) -> None:
    old = studio_run(tmp_path / "b", "20290101-000000-old-abcdef")
    new = studio_run(tmp_path / "b", "20300101-000000-new-abcdef", rounds=3)
    with serving(new.parent) as client:
        assert f"made/{new.stem}/0.webp" in client.get("/runs/b/iterations").text
        text = client.get("/runs/b/iterations", params={"record": old.stem}).text
        assert f"made/{old.stem}/0.webp" in text
        assert "2 runs in this folder" in text
        assert client.get("/runs/b/iterations", params={"record": "../x"}).status_code == 404


def test_a_page_follows_its_run(tmp_path: Path) -> None:
    record = studio_run(tmp_path / "b", rounds=1, ended=False)
    with serving(record.parent) as client:
        before, text = client.get("/runs/b/revision").json(), client.get("/runs/b/iterations").text
        assert before["revision"] in text
        assert "still running" in text
        assert "best so far" in text
        os.utime(record, ns=(1, 1))
        assert client.get("/runs/b/revision").json() != before
        record.unlink()
        assert client.get("/runs/b/iterations").status_code == 404


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.png", "link.png", "out/secret.png", "pipe.png", "none.png", "", "a\0b"]
)
def test_only_files_of_the_run_are_served(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    record = studio_run(tmp_path / "b")
    (record.parent / "link.png").symlink_to(tmp_path / "secret.png")
    (record.parent / "out").symlink_to(tmp_path)
    os.mkfifo(record.parent / "pipe.png")
    first_image_is(record, name)
    with serving(record.parent) as client:
        for end in ("", ".webp"):
            assert client.get(f"/runs/b/made/{record.stem}/0{end}").status_code == 404
        assert client.get("/runs/b/iterations").status_code == 200


@pytest.mark.parametrize("address", ["9", "-1", "../0", "%2e%2e%2f0", "9.webp"])
def test_images_have_no_other_addresses(tmp_path: Path, address: str) -> None:
    record = studio_run(tmp_path / "b")
    with serving(record.parent) as client:
        assert client.get(f"/runs/b/made/{record.stem}/{address}").status_code in (404, 422)
        assert client.get("/runs/b/made/..%2fx/0").status_code == 404


def test_a_path_of_a_refinement_counts_by_its_last_part(tmp_path: Path) -> None:
    folder = refinement_run(tmp_path / "a")
    moved = folder.rename(tmp_path / "moved")
    rewrite(moved / "result.json", image_history=["/etc/iteration_1.png", None, "/etc/passwd"])
    with serving(moved) as client:
        assert client.get("/runs/moved/made/result/0").status_code == 200
        assert client.get("/runs/moved/made/result/2").status_code == 404


@pytest.mark.parametrize("content", [b"<svg onload=alert(1)>", b"<!doctype html><script>1</script>", b"RIFF1234AVI "])
def test_files_of_other_types_are_not_served(tmp_path: Path, content: bytes) -> None:
    folder = refinement_run(tmp_path / "a")
    (folder / "iteration_1.png").write_bytes(content)
    with serving(folder) as client:
        for end in ("", ".webp"):
            assert client.get(f"/runs/a/made/result/0{end}").status_code == 404


def test_huge_files_are_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentfly.viewer.runs.generated.LARGEST_IMAGE", 50)
    with serving(refinement_run(tmp_path / "a")) as client:
        assert client.get("/runs/a/made/result/0").status_code == 404


def test_hostile_words_are_text(tmp_path: Path) -> None:
    hostile = '"><script>alert(1)</script>\ud800'
    with serving(refinement_run(tmp_path / "a", hostile)) as client:
        text = client.get("/runs/a/iterations").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.slow
def test_a_page_stays_small(tmp_path: Path) -> None:
    record = refinement_run(tmp_path / "a") / "result.json"
    found = json.loads(record.read_text("utf-8"))
    lists = ("prompt_history", "image_history", "feedback_history", "iterations")
    rewrite(record, **{name: found[name] * 300 for name in lists}, error="e" * 10**6)
    rewrite(record, prompt_history=["w " * 5000] * 900)
    run = find_run(record.parent, "a")
    html = page(run, ServerLinks("a")).render("iterations.html.jinja")
    assert len(html) < 300_000
    assert f"newest {MOST_ROUNDS} of 900" in html


def test_words_that_a_prompt_did_not_have_before_are_marked() -> None:
    assert marked("a red boat at night", "a red boat") == (("a red boat", False), ("at night", True))
    assert marked("a", None) == (("a", False),)
    assert marked("", "a") == ()
