"""The checks that contributors run: what the pages and `make help` promise of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def recipe(target: str) -> list[str]:
    """Commands that make would run for a target, without those of the installation."""
    command = ["make", "--dry-run", "--no-print-directory", "VENV=V", target]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return [line for line in done.stdout.splitlines() if "install.sh" not in line]


def test_a_check_lints_and_runs_tests_that_exist() -> None:
    lint, check = recipe("lint"), recipe("check")
    assert check[: len(lint)] == lint
    (tests,) = check[len(lint) :]
    assert tests.startswith('V/bin/python -m pytest -q -m "not slow" tests/unit/test_*.py ')
    folders = re.findall(r"tests/unit/\w+(?= |$)", tests)
    assert folders
    assert [name for name in folders if not (ROOT / name).is_dir()] == []


def test_lint_is_what_the_hooks_of_pre_commit_run() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (source,) = config["repos"]
    # Nothing is fetched: the programs are those of the environment.
    assert source["repo"] == "local"
    assert {hook["language"] for hook in source["hooks"]} == {"system"}
    programs = [re.sub(r" --\S+| \.$", "", hook["entry"]) for hook in source["hooks"]]
    ours = [re.sub(r"V/bin/python -m | --\S+| \.", "", line) for line in recipe("lint")]
    assert programs == ours == ["ruff check", "ruff format", "mypy"]


def test_ci_runs_every_target_that_checks_and_no_other() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make (\w+)$", script, re.MULTILINE) == ["install", "lint", "docs", "test"]


def test_every_target_that_a_page_names_exists() -> None:
    helped = subprocess.run(["make", "help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    targets = set(re.findall(r"^  make (\w+)", helped, re.MULTILINE))
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        named = set(re.findall(r"`make (\w+)", page.read_text(encoding="utf-8")))
        assert named <= targets, page.name
