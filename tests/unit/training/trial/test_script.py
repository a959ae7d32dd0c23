"""A script is a file that a person writes by hand: each form is read, and each slip is named with the right form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfly.errors import ConfigError, DatasetError
from agentfly.templates import ChatCodec
from agentfly.tools import parse_tool_calls
from agentfly.training.trial.script import read_script

CALL = {"call": "zoom", "arguments": {"image_id": "img_1", "box": [1, 2]}, "text": "I look."}


def script(folder: Path, content: object, name: str = "s.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))  # JSON is YAML
    return path


def test_turns_are_for_all_tasks_for_one_by_number_or_for_one_by_id(tmp_path: Path) -> None:
    everyone = read_script(script(tmp_path, ["a", "b"]))
    assert everyone.turns(0, "x", None) == everyone.turns(9, "y", None) == ["a", "b"]
    lines = read_script(script(tmp_path, '["a"]\n["b", "c"]\n', "s.jsonl"))
    assert [lines.turns(number, "x", None) for number in (0, 1)] == [["a"], ["b", "c"]]
    named = read_script(script(tmp_path, {"x": ["a"], "default": ["b"]}))
    assert [named.turns(0, task, None) for task in ("x", "y")] == [["a"], ["b"]]


def test_a_call_is_read_again_as_the_same_call(tmp_path: Path, policy_codec: ChatCodec) -> None:
    found = read_script(script(tmp_path, [CALL]))
    for codec in (None, policy_codec):
        (text,) = found.turns(0, "x", codec)
        (call,) = parse_tool_calls(text, names=frozenset({"zoom"})).calls
        assert (call.name, dict(call.arguments), call.error) == (CALL["call"], CALL["arguments"], None)
        assert text.startswith("I look.")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "holds no turns"),
        ({}, "holds no turns"),
        ("text", "holds no turns"),
        ([{"tool": "x"}], "write a text, or {call: TOOL"),
        ([{"call": "x", "arguments": "y"}], "write a text, or {call: TOOL"),
        ({"a": "text"}, "has str for a list of turns"),
        ([["a"], []], "has an empty list for a list of turns"),
    ],
)
def test_a_slip_is_named_with_the_form(content: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as fault:
        read_script(script(tmp_path, content))
    assert words in str(fault.value)


def test_a_task_without_turns_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no turns for task 2 \(x\): add them, or try fewer tasks"):
        read_script(script(tmp_path, [["a"]])).turns(1, "x", None)
    with pytest.raises(ConfigError, match="add them, or turns under 'default'"):
        read_script(script(tmp_path, {"y": ["a"]})).turns(0, "x", None)
    for name in ("no.yaml", "no.jsonl"):
        with pytest.raises(ConfigError, match="cannot read the script"):
            read_script(tmp_path / name)
    with pytest.raises(DatasetError, match="not JSON"):
        read_script(script(tmp_path, "{", "s.jsonl"))
