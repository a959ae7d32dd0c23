"""Objects by "module:name": found, or refused with the person's own file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfly.errors import ConfigError
from agentfly.importing import described, import_object, own_line


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_dotted_name_is_followed() -> None:
    assert import_object("json:decoder.JSONDecoder", "thing") is json.decoder.JSONDecoder


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("json", "write module:name"),
        (":dumps", "write module:name"),
        ("no_such_module_at_all:x", "no module 'no_such_module_at_all' is found"),
        ("json.nothing:x", "no module 'json.nothing' is found"),
        ("json:nothing", "json has no 'nothing'"),
    ],
)
def test_what_is_not_there_is_named(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        import_object(address, "tool")


def test_a_module_that_fails_is_told_with_its_line(project: Path) -> None:
    (project / "failing_one.py").write_text("import json\n\n1 / 0\n")
    with pytest.raises(ConfigError, match=r"ZeroDivisionError: division by zero \(.*failing_one\.py:3\)"):
        import_object("failing_one:x", "tool")
    (project / "broken_one.py").write_text("def f(:\n")
    with pytest.raises(ConfigError, match=r"SyntaxError.*broken_one\.py:1"):
        import_object("broken_one:x", "tool")


def test_a_module_that_is_a_script_does_not_end_the_process(project: Path) -> None:
    (project / "script_one.py").write_text("import sys\nsys.exit('usage: script_one FILE')\n")
    with pytest.raises(ConfigError, match=r"SystemExit: usage: script_one FILE \(.*script_one\.py:2\)"):
        import_object("script_one:x", "tool")


def test_a_package_that_the_module_wants_is_not_taken_for_the_module(project: Path) -> None:
    (project / "wanting_one.py").write_text("import no_such_package_here\n")
    with pytest.raises(ConfigError, match=r"wanting_one cannot be imported: ModuleNotFoundError: .*wanting_one\.py:1"):
        import_object("wanting_one:x", "tool")


def test_the_line_is_the_innermost_that_is_a_persons_own() -> None:
    with pytest.raises(json.JSONDecodeError) as found:
        json.loads("{")
    line = own_line(found.value)
    assert line is not None
    assert line.rpartition(":")[0] == __file__
    assert described(ValueError("never raised")) == "ValueError: never raised"
