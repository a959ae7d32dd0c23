"""scripts/site_pages.py: links are right on the site, and the site needs no network."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "site_pages.py"))


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("index.md", "docs/agent.md#a-photo-and-a-key", "agent.md#a-photo-and-a-key"),
        ("index.md", "docs/images/edit.png", "images/edit.png"),
        ("index.md", "CONTRIBUTING.md", "contributing.md"),
        ("data.md", "../data/README.md", "sample_data.md"),
        ("data.md", "../README.md", "index.md"),
        ("data.md", "evaluators.md", "evaluators.md"),
        ("data.md", "#masks", "#masks"),
        ("data.md", "https://example.org/docs/agent.md", "https://example.org/docs/agent.md"),
        # No page: the strict build ends with it.
        ("data.md", "../setup.py", "../setup.py"),
    ],
)
def test_a_link_between_files_becomes_one_between_pages(page: str, link: str, expected: str) -> None:
    assert SCRIPT["rewrite_links"](f"See [this]({link}).", page) == f"See [this]({expected})."


def test_every_document_outside_docs_is_a_page() -> None:
    assert {path.name for path in ROOT.glob("*.md")} == {name for name in SCRIPT["PAGES"] if "/" not in name}


def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.html")}
    assert {"index.html", "api.html", "contributing.html", "architecture.html"} <= pages.keys()
    for name, html in pages.items():
        assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//[^"]+', html) == [], name
    # The script of the diagrams would come from elsewhere: they stand as text.
    assert 'class="mermaid"' not in pages["architecture.html"]
    assert "launcher: agentfly train" in pages["architecture.html"]
    for name in ("ImageEditingAgent", "make_evaluator", "load_tasks", "make_engines"):
        assert f"{name}</span>" in pages["api.html"], name
