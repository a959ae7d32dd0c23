"""The layout of the package: imports go down, and no two files and no two rooms import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "agentfly"

# From the ground up. A room may import from its own floor and from those below.
FLOORS = (
    (
        "errors",
        "aio",
        "files",
        "settings",
        "model_source",
        "list_options",
        "lenient_json",
        "redaction",
        "process_tree",
        "cleanup",
        "importing",
        "provenance",
    ),
    ("messages", "images"),
    ("openai_client", "openai_compat", "openai_requests", "templates"),
    ("vision", "datasets"),
    ("tools", "evaluators"),
    ("agents",),
    ("systems", "serving"),
    ("evaluation", "environments"),
    ("viewer",),
    ("training",),
    ("doctor", "project"),
    ("cli", "utils"),
)
TRAINING_FLOORS = (
    ("cpu",),
    ("metrics",),
    ("recipe",),
    ("launch",),
    ("recording",),
    ("supervised", "verl"),
    ("quickstart", "trial"),
    ("train",),
)

# Documented commands whose names are on one floor and whose work is on a floor above. They import when they are called.
DOORS = {PACKAGE / "agents/specialized/image_agent/utils/diffuser_apis.py"}


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package; a package's face has the name of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports, inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@cache
def imports() -> dict[str, set[str]]:
    """Return the modules of the package that each of them imports. Cached here, for collecting tests must be quick."""
    return {
        name: {other for other in imported(path) if other in MODULES and other != name}
        for name, path in MODULES.items()
    }


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Return one circle of a graph, or an empty list."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as fault:
        found: list[str] = fault.args[1]
        return found
    return []


def rooms(prefix: str) -> dict[str, set[str]]:
    """Return which rooms below `prefix` import which others; doors are left out."""
    graph: dict[str, set[str]] = {}
    for name, others in imports().items():
        if not name.startswith(f"{prefix}.") or MODULES[name] in DOORS:
            continue
        room = name.removeprefix(f"{prefix}.").split(".")[0]
        needed = {other.removeprefix(f"{prefix}.").split(".")[0] for other in others if other.startswith(f"{prefix}.")}
        graph.setdefault(room, set()).update(needed - {room})
    return graph


@pytest.mark.parametrize(("prefix", "floors"), [("agentfly", FLOORS), ("agentfly.training", TRAINING_FLOORS)])
def test_imports_go_down(prefix: str, floors: tuple[tuple[str, ...], ...]) -> None:
    floor_of = {room: number for number, names in enumerate(floors) for room in names}
    graph = rooms(prefix)
    assert graph.keys() == floor_of.keys()
    assert [(a, b) for a, others in graph.items() for b in others if floor_of[b] > floor_of[a]] == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(imports()) == []


@pytest.mark.parametrize(
    "prefix", sorted({"agentfly", *(name for name, path in MODULES.items() if path.name == "__init__.py")})
)
def test_no_rooms_import_each_other_in_a_circle(prefix: str) -> None:
    assert circle(rooms(prefix)) == []


def test_doors_hand_on_when_they_are_used_and_not_before() -> None:
    for path in DOORS:
        module = ast.parse(path.read_text(encoding="utf-8"))
        imports = [node for node in module.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert [node.module for node in imports if isinstance(node, ast.ImportFrom)] == ["__future__"]
        assert len(imports) == 1
