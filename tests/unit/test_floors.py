"""The house stands: imports go down, never up, and rooms of one floor do not need each other in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "agentfly"
FLOORS = {
    "errors": 0,
    "messages": 0,
    "model_source": 0,
    "files": 0,
    "loops": 0,
    "rate_limit": 0,
    "waiting": 0,
    "settings": 0,
    "images": 1,
    "templates": 1,
    "datasets": 2,
    "vision": 2,
    "tools": 3,
    "evaluators": 3,
    "agents": 4,
    "systems": 5,
    "evaluation": 6,
    "serving": 6,
    "training": 6,
    "doctor": 6,
    "viewer": 6,
    "utils": 7,
    "cli": 7,
}

# A documented command whose name is on one floor and whose work is on the one above: a door, not an import that
# anything on its floor could lean on.
DOORS = {PACKAGE / "agents/specialized/image_agent/utils/diffuser_apis.py"}


def rooms_needed(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("agentfly.")}
    return found


def needs() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {room: set() for room in FLOORS}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__" and path not in DOORS:
            graph[room] |= rooms_needed(path) - {room}
    return graph


def test_imports_go_down() -> None:
    upward = [(room, other) for room, others in needs().items() for other in others if FLOORS[other] > FLOORS[room]]
    assert upward == []


def test_doors_hand_on_when_they_are_used_and_not_before() -> None:
    for path in DOORS:
        module = ast.parse(path.read_text(encoding="utf-8"))
        imports = [node for node in module.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert [node.module for node in imports if isinstance(node, ast.ImportFrom)] == ["__future__"]
        assert len(imports) == 1


def test_no_two_rooms_need_each_other() -> None:
    graph = needs()
    assert [(a, b) for a in graph for b in graph[a] if a < b and a in graph[b]] == []
