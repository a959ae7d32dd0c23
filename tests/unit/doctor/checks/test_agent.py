"""The agent that options or a card name: made, listed, and its own tools called once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfly.agents.policy_config import PolicyConfig
from agentfly.doctor import DoctorRequest, Examination
from agentfly.doctor.checks.agent import agent
from tests.unit.doctor.judged import judged, only

MODULE = '''
from agentfly.tools import tool

@tool
def hello() -> str:
    """Greet."""
    return "hello"

@tool
def broken() -> str:
    """Fail."""
    raise ValueError("oh")
'''


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tools_of_a_doctor.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


def found(**request: Any) -> list[tuple[str, str]]:
    return judged(agent(Examination(DoctorRequest(**request))))


def test_nothing_is_said_of_the_default_agent() -> None:
    assert found() == [("skipped", "the image-editing agent with its own tools")]


def test_tools_are_listed_and_those_of_ones_own_called() -> None:
    (level, words), (tried, outcome) = found(tools=("give_answer", "tools_of_a_doctor:hello"))
    assert (level, words) == ("ok", "agent image-editing with tools give_answer, hello")
    assert tried == "ok"
    assert outcome.endswith(" s: hello")


def test_a_tool_that_fails_is_an_error_with_its_line() -> None:
    _, (level, words) = found(tools=("give_answer", "tools_of_a_doctor:broken"))
    assert level == "error"
    assert "ValueError: oh (" in words


def test_what_cannot_be_imported_is_an_error() -> None:
    assert only(agent(Examination(DoctorRequest(agent="nowhere_at_all:Agent"))))[0] == "error"


def test_the_card_of_a_policy_is_examined_too(tmp_path: Path) -> None:
    PolicyConfig(tools=("give_answer", "tools_of_a_doctor:hello")).write(tmp_path)
    ((level, words),) = found(model=str(tmp_path))
    assert level == "warning"
    assert "was trained with code that is not part of agentfly: tools_of_a_doctor:hello" in words
    assert found(model=str(tmp_path), agent="card")[0] == ("ok", "agent image-editing with tools give_answer, hello")


def test_a_card_that_cannot_be_read_is_an_error_of_the_card(tmp_path: Path) -> None:
    (tmp_path / "agentfly.json").write_text('{"agents": "x:Y"}')
    level, words = only(agent(Examination(DoctorRequest(model=str(tmp_path)))))
    assert level == "error"
    assert "agentfly.json is not valid: agents: Extra inputs are not permitted" in words
