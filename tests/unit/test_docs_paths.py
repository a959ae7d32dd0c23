"""The files, folders and objects that the pages name exist; only the changelog may name what is gone."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if page.name != "CHANGELOG.md"]
PATH = re.compile(r"(?<![\w/.])(?:agentfly|benchmarks|docs|recipes|scripts|tests)/[\w/.*-]*\w/?")
NAME = re.compile(r"(?<![\w/.:])agentfly(?:\.(?!json\b|(?:trajectory|rating|calibration)/)[A-Za-z_]\w*)+")
PLACEHOLDER = re.compile(r"\b[A-Z]{4,}\b|test_NAME")


def named(pattern: re.Pattern[str]) -> list[str]:
    """Return everything of a kind that the pages name, each once."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    found = {match.group() for text in texts for match in pattern.finditer(text)}
    return sorted(name for name in found if not PLACEHOLDER.search(name))


def recipe_keys() -> set[str]:
    """Return the keys of our node of a recipe, which look like names of modules."""
    (file,) = (ROOT / "agentfly" / "training").rglob("config/agentfly.yaml")
    return set(yaml.safe_load(file.read_text(encoding="utf-8"))["agentfly"])


@pytest.mark.parametrize("path", named(PATH))
def test_paths_exist(path: str) -> None:
    assert list(ROOT.glob(path)) if "*" in path else (ROOT / path).exists()


@pytest.mark.parametrize("name", named(NAME))
def test_names_are_objects_or_keys_of_a_recipe(name: str) -> None:
    if name.split(".")[1] not in recipe_keys():
        assert pkgutil.resolve_name(name) is not None


def test_the_walk_is_counted() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walk = page.partition("## A walk")[2]
    files = re.findall(r"^\| (\d+) \| [^|]*\| `([^`]+)` \|", walk, re.MULTILINE)
    assert [int(number) for number, _ in files] == list(range(1, len(files) + 1))
    assert len({path for _, path in files}) == len(files)
    assert f"The {len(files)} files" in walk
