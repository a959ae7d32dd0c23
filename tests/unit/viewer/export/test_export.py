"""Exports: what is in them, how large they are, and what they do not let out or overwrite."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agentfly.errors import ConfigError
from agentfly.viewer.export import single
from agentfly.viewer.export.folder import MARKER
from agentfly.viewer.export.run import Exported, export_run
from agentfly.viewer.opened import OpenRun
from agentfly.viewer.runs.folder import find_run
from agentfly.viewer.settings import ViewerSettings
from tests.unit.viewer.export.made import HOSTILE, packed_pages, quiet, run_with, run_with_images
from tests.unit.viewer.generated_runs import refinement_run, studio_run
from tests.unit.viewer.made import line


def exported(run: OpenRun, out: Path, most: int | None = None) -> Exported:
    return export_run(run.run, out, ViewerSettings(), quiet, most)


class Addresses(HTMLParser):
    """Collects the addresses of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in ("src", "href")]


def test_a_file_has_its_pages_and_images(tmp_path: Path) -> None:
    found = exported(run_with_images(tmp_path / "run", 3), tmp_path / "report.html")
    html = found.path.read_text("utf-8")
    pages = packed_pages(html)
    assert {"index", "chains", "chains/1", "chains/2", "chains/3"} <= set(pages)
    assert "All 3 chains of the run." in str(pages["chains"]["body"])
    assert 'href="?chains/2"' in str(pages["chains"]["body"])
    marks = set(re.findall(r'"image:(\d+)"', "".join(str(page["body"]) for page in pages.values())))
    assert len(marks) == 3
    for mark in marks:
        block = re.search(rf'data-image="{mark}">([^<]+)<', html)
        assert block is not None
        assert base64.b64decode(block[1])[8:12] == b"WEBP"
    assert found.size == found.path.stat().st_size


def test_a_table_without_filters_is_not_offered_as_a_part_of_it(tmp_path: Path) -> None:
    """The table of an export has keys, but shows all chains: links to some of them would mislead."""
    run = run_with(tmp_path / "run", *(line(f"c{n}", score=0.0) for n in range(3)))
    pages = packed_pages(exported(run, tmp_path / "report.html").path.read_text("utf-8"))
    assert "rows.js" in str(pages["chains"]["scripts"])
    overview = str(pages["index"]["body"])
    assert "What a failure looks like" in overview
    assert "all of them" not in overview
    assert overview.count('href="?chains"') == 2  # the menu, and the row of all chains
    assert 'href="?chains"' in str(pages["chains/1"]["body"])


def test_the_table_has_what_its_script_filters_and_sorts_by(tmp_path: Path) -> None:
    lines = (line("a", score=90.5, reward=None, type=HOSTILE, step=3), line("b", score=None, stop_reason=None))
    body = str(
        packed_pages(exported(run_with(tmp_path / "run", *lines), tmp_path / "a.html").path.read_text("utf-8"))[
            "chains"
        ]["body"]
    )
    assert re.findall(r'data-step="([^"]*)" data-score="([^"]*)" data-reward="([^"]*)"', body) == [
        ("1", "", "0.5"),
        ("3", "90.5", ""),
    ]
    assert re.findall(r'data-stop="([^"]*)"', body) == ["not ended", "answered"]
    assert re.findall(r'aria-sort="(\w+)"><button type="button" class="sort" data-sort="(\w+)"', body) == [
        ("descending", "n"),
        ("none", "step"),
        ("none", "score"),
        ("none", "reward"),
    ]
    assert 'id="sift"' in body
    assert HOSTILE not in body
    assert 'data-type="&#34;&gt;&lt;script&gt;alert(1)' in body


def test_the_policy_of_a_file_names_its_own_script_and_styles_alone(tmp_path: Path) -> None:
    html = exported(run_with(tmp_path / "run", line("a")), tmp_path / "report.html").path.read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    texts = {
        "script-src": re.findall(r"<script>(.*?)</script>\n</body>", html, re.DOTALL),
        "style-src": re.findall(r"<style[^>]*>(.*?)</style>", html, re.DOTALL),
    }
    for name, found in texts.items():
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
        assert rules[name].split() == [f"'sha256-{value}'" for value in hashes]
    assert "fetch(" not in re.sub(r"agentfly\.modules\[.*?\n};", "", texts["script-src"][0], flags=re.DOTALL)


@pytest.mark.slow
def test_a_file_keeps_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with_images(tmp_path / "run", 12, side=512)
    assert sum(path.stat().st_size for path in (tmp_path / "run" / "images").iterdir()) > 5_000_000
    monkeypatch.setattr(single, "LARGEST", 200_000)
    found = exported(run, tmp_path / "report.html")
    assert found.size <= 200_000
    assert len(re.findall("data-image=", found.path.read_text("utf-8"))) == 12


def test_a_folder_has_full_images_and_links_that_lead_somewhere(tmp_path: Path) -> None:
    run = run_with_images(tmp_path / "run", 3)
    found = exported(run, tmp_path / "out")
    assert found.path == tmp_path / "out" / "index.html"
    pages = sorted((tmp_path / "out").rglob("*.html"))
    assert len(pages) >= 5
    for page in pages:
        for address in Addresses(page.read_text("utf-8")).found:
            if not address.startswith("#"):
                target = (page.parent / address.partition("#")[0]).resolve()
                assert target.is_relative_to(tmp_path / "out")
                assert target.is_file(), (page, address)
    for thumb in (tmp_path / "out" / "thumbs").iterdir():
        assert thumb.read_bytes()[8:12] == b"WEBP"
    assert json.loads((tmp_path / "out" / MARKER).read_text())["content"] == "All 3 chains of the run."


def test_what_is_left_out_is_said_on_every_page(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", *(line(f"c{n}", score=float(n)) for n in range(30)))
    found = exported(run, tmp_path / "out", 10)
    assert found.content.startswith("10 of 30 chains of the run: ")
    assert " 0 " not in found.content
    assert len(list((tmp_path / "out" / "chains").iterdir())) == 10
    for page in (tmp_path / "out").rglob("*.html"):
        assert "10 of 30 chains of the run: " in page.read_text("utf-8")


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    run = run_with_images(tmp_path / "run", 1, words=HOSTILE)
    html = exported(run, tmp_path / "report.html").path.read_text("utf-8")
    texts = [str(page["body"]) + str(page["title"]) for page in packed_pages(html).values()]
    exported(run, tmp_path / "out")
    texts += [page.read_text("utf-8") for page in (tmp_path / "out").rglob("*.html")]
    assert any("&lt;script&gt;alert(1)" in text for text in texts)
    assert not any("<script>alert" in text for text in [*texts, html])


def test_keys_are_in_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-very-secret-1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("agentfly: {api_key: hidden-key-22}\n")
    lines = [line("a"), line("b", answer="It is sk-very-secret-1."), line("c", instruction="at hidden-key-22")]
    run = run_with(tmp_path / "run", *lines)
    found = exported(run, tmp_path / "out")
    assert found.content == "1 of 3 chains of the run: 1 without keys in their texts. The others were left out."
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"sk-very-secret-1" not in data
            assert b"hidden-key-22" not in data


def test_only_an_export_is_replaced(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", line("a"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "mine.html").write_text("<html>mine")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "mine.html", "file"):
        with pytest.raises(ConfigError, match="is there and is no export"):
            exported(run, tmp_path / name)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"
    assert (tmp_path / "mine.html").read_text() == "<html>mine"
    for name in ("out", "out.html"):
        exported(run, tmp_path / name)
        exported(run, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "mine.html", "out", "out.html", "run"]


@pytest.mark.parametrize("name", ["run", ""])
def test_the_run_itself_is_not_replaced(tmp_path: Path, name: str) -> None:
    run = run_with(tmp_path / "run", line("a"))
    with pytest.raises(ConfigError, match="holds the run itself"):
        exported(run, tmp_path / name)


def test_a_fault_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(tmp_path / "run", line("a"))
    for name in ("out", "out.html"):
        exported(run, tmp_path / name)
    before = (tmp_path / "out.html").read_bytes()

    def fail(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("agentfly.viewer.export.folder.bundle", fail)
    monkeypatch.setattr("agentfly.viewer.export.single.bundle", fail)
    for name in ("out", "out.html"):
        with pytest.raises(OSError, match="disk full"):
            exported(run, tmp_path / name)
    assert (tmp_path / "out.html").read_bytes() == before
    assert (tmp_path / "out" / "index.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.html", "run"]


def test_damaged_chains_and_exchanged_images_are_left_out(tmp_path: Path) -> None:
    run = run_with_images(tmp_path / "run", 2)
    secret = tmp_path / "secret.png"
    image = sorted((tmp_path / "run" / "images").iterdir())[0]
    image.rename(secret)
    image.symlink_to(secret)
    found = exported(run, tmp_path / "out")
    names = {path.stem for path in (tmp_path / "out" / "images").iterdir()}
    names |= {path.stem for path in (tmp_path / "out" / "thumbs").iterdir()}
    assert image.stem not in names
    assert found.left_out == ""


@pytest.mark.parametrize("kind", ["generate", "director-generator"])
def test_runs_of_image_generation(tmp_path: Path, kind: str) -> None:
    path = refinement_run(tmp_path / "run") if kind == "generate" else studio_run(tmp_path / "run")
    run = OpenRun(find_run(path, "run"))
    html = exported(run, tmp_path / "report.html").path.read_text("utf-8")
    assert '"image:0"' in str(packed_pages(html)["index"]["body"])
    exported(run, tmp_path / "out")
    images = [path for path in (tmp_path / "out").rglob("*") if path.parent.name in ("images", "thumbs")]
    assert len(images) == (4 if kind == "generate" else 6)
    for address in Addresses((tmp_path / "out" / "index.html").read_text("utf-8")).found:
        assert address.startswith("#") or (tmp_path / "out" / address).is_file(), address
