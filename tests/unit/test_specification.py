"""The page of the five documents is true: its tests exist, its commands can be typed, its variables are read."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from agentfly.cli import app
from agentfly.serving.deploy import app as deploy_app
from recipes.director_generator.__main__ import make_parser as director_parser
from recipes.text_systems.__main__ import make_parser as text_parser
from recipes.text_systems.website_builder import make_parser as website_parser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ROOT / "recipes" / "documents"
PAGE = (ROOT / "docs" / "specification.md").read_text(encoding="utf-8")
SPAN = re.compile(r"`([^`]+)`")
TEST = re.compile(r"^(tests/[\w/]+/test_\w+\.py)::(test_\w+)$")
VARIABLE = re.compile(r"^([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=\S*)?$")
# Variables of other programs.
FOREIGN = {"CUDA_VISIBLE_DEVICES"}
# `recipes.text_systems.settings` puts the prefix before the names without it; its tests read both.
PREFIXED = {"VLLM_API_URL"}
# What others read: a shell, pip, a browser. Each has to name what exists here, which other tests check.
PROGRAMS = ("make ", "curl ", "cp ", "export ", "uv ", "pip ", "pytest ", "python ", "agentfly ", "recipes/")


def rows() -> list[tuple[str, str, str]]:
    """Return the rows of all tables: what is promised, what is typed, the tests."""
    cells = (re.split(r"(?<!\\)\|", line)[1:-1] for line in PAGE.splitlines() if line.startswith("| "))
    found = [tuple(cell.strip().replace("\\|", "|") for cell in row) for row in cells]
    return [(row[0], row[1], row[2]) for row in found if row[2] != "test" and set(row[0]) - {"-"}]


def named_tests() -> list[str]:
    return sorted({span for *_, tests in rows() for span in SPAN.findall(tests)})


def commands() -> list[str]:
    """Return the commands of the second column."""
    spans = [span for _, typed, _ in rows() for span in SPAN.findall(typed)]
    return sorted({span for span in spans if re.sub(r"^(?:[A-Z_]+=\S+ )+", "", span).startswith(PROGRAMS)})


def variables() -> list[str]:
    spans = [span for promised, typed, _ in rows() for span in SPAN.findall(promised) + SPAN.findall(typed)]
    return sorted({found[1] for span in spans if (found := VARIABLE.match(span))} - FOREIGN)


def test_the_page_has_its_rows() -> None:
    assert len(rows()) > 130
    assert {len(re.split(r"(?<!\\)\|", line)) for line in PAGE.splitlines() if line.startswith("| ")} == {5}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:50])
def test_a_row_has_a_test_or_a_reason(row: tuple[str, str, str]) -> None:
    assert TEST.match(SPAN.findall(row[2])[0]) if SPAN.findall(row[2]) else row[2].startswith("none: ")


@cache
def functions_of(file: Path) -> set[str]:
    """Return the tests that pytest collects from a file: functions at its top that nobody skips for good."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    found = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name for node in found if not any("mark.skip" in ast.unparse(one) for one in node.decorator_list)}


@pytest.mark.parametrize("name", named_tests())
def test_a_named_test_exists(name: str) -> None:
    parts = TEST.match(name)
    assert parts is not None, "write tests/…/test_x.py::test_y"
    assert parts[2] in functions_of(ROOT / parts[1])


@pytest.mark.slow
def test_the_named_tests_are_collected() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-n0", "-p", "no:cacheprovider", *named_tests()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def parse_click(command: Any, arguments: Sequence[str]) -> None:
    """Parse the arguments of a typer command, without running it."""
    while known := getattr(command, "commands", None):
        command, arguments = known[arguments[0]], arguments[1:]
    with command.make_context(command.name, list(arguments)):
        pass


def parse_agentfly(*arguments: str) -> None:
    parse_click(typer.main.get_command(app), arguments)


def flags(parser: Callable[[], ArgumentParser]) -> Callable[..., object]:
    return lambda *arguments: parser().parse_args(arguments)


def sdxl(*arguments: str) -> None:
    parse_agentfly("serve-images", "--model-type", "sdxl", *arguments)


def generate(*arguments: str) -> None:
    parse_agentfly("generate", *arguments)


PARSERS: dict[str, Callable[..., object]] = {
    "src.main": flags(director_parser),
    "recipes.director_generator": flags(director_parser),
    "recipes.text_systems": flags(text_parser),
    "recipes.text_systems.website_builder": flags(website_parser),
    "scripts.sdxl_server": sdxl,
    "recipes.director_generator.sdxl_server": sdxl,
    "agentic_image_gen": generate,
    "recipes.refinement_loop": generate,
    "agentfly.utils.deploy": lambda *words: parse_click(typer.main.get_command(deploy_app), words),
    "agentfly.agents.specialized.image_agent.utils.diffuser_apis": lambda *words: parse_agentfly(
        "serve-images", *words
    ),
}
# vLLM reads its own flags (a test starts it), `venv` is Python's, and a test of the pages runs the third.
OTHER_MODULES = ("vllm.entrypoints.openai.api_server", "venv", "agentfly.tests.unit.agents.test_image_agent.test_run")


def check_python(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "--version":
        return
    if words[0] != "-m":
        assert (DOCUMENTS / words[0]).is_file()
        return
    module, arguments = words[1], words[2:]
    if module in PARSERS:
        monkeypatch.syspath_prepend(str(DOCUMENTS))
        # A package of that name may be installed; that of the documents comes first on the path.
        monkeypatch.delitem(sys.modules, module.partition(".")[0], raising=module.startswith(("recipes", "agentfly")))
        found = importlib.util.find_spec(module)
        assert found is not None
        assert str(found.origin).startswith(str(ROOT))
        PARSERS[module](*arguments)
    else:
        assert module in OTHER_MODULES


@pytest.mark.parametrize("command", commands())
def test_a_command_can_be_typed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command))
    match words:
        case ["agentfly", verb]:
            assert verb in getattr(typer.main.get_command(app), "commands")  # noqa: B009  # click's, which has no types
        case ["agentfly", *arguments]:
            parse_agentfly(*arguments)
        case ["python", *rest]:
            check_python(rest, monkeypatch)
        case ["pip", "install", "."]:
            pass
        case ["pip", "install", "-e", place, *_]:
            setup = (ROOT / "setup.py").read_text(encoding="utf-8")
            assert all(f'    "{extra}": [' in setup for extra in re.findall(r"\[(\w+)\]", place))
        case ["pip", "install", "-r", file] | ["uv", "pip", "install", "-r", file]:
            assert (ROOT / file).is_file()
        case ["pytest", test, "-s"]:
            path, _, name = test.partition("::")
            assert (ROOT / path).is_file()
            assert not name or name in functions_of(ROOT / path)
        case ["cp", source, ".env"]:
            assert (ROOT / source).is_file()
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        case [script] if script.startswith("recipes/"):
            assert (ROOT / script).exists()
        case [script, folder, *arguments] if script.endswith("parallel.sh"):
            assert (ROOT / script).is_file()
            director_parser().parse_args(["-f", folder, *arguments])
        case _:
            assert words[0] in ("curl", "export") or words == ["pip", "install", "uv"], "no check for this command"


@cache
def code() -> str:
    files = [*(ROOT / "agentfly").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if "tests" not in file.parts)


@pytest.mark.parametrize("name", variables())
def test_a_variable_is_read(name: str) -> None:
    assert f'"{name}"' in code() or name in PREFIXED
