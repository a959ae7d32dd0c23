"""Calls are found in what policies really write, and nothing that they write can break the reader."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfly.messages import ToolCall
from agentfly.tools import parse_tool_calls
from agentfly.tools.parsing import native_call

EDIT = '{"name": "edit", "arguments": {"image_id": "img_1"}}'
ONE = (ToolCall("call_0", "edit", {"image_id": "img_1"}),)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (f"<tool_call>{EDIT}</tool_call>", ""),
        (f"I will edit.\n<tool_call>\n{EDIT}\n</tool_call>", "I will edit."),
        (f"before <tool_call>{EDIT}</tool_call> after", "before  after"),
        (f"<tool_call>{EDIT}", ""),
        (f"so <tool_call>\n{EDIT}\n", "so"),
        (f"```json\n{EDIT}\n```", ""),
        (f"Look:\n```json\n{EDIT}\n```\nDone", "Look:\n\nDone"),
        (f"```json\n{EDIT}", ""),
        (f"```\n{EDIT}\n```", ""),
        (f"<tool_call>\n```json\n{EDIT}\n```\n</tool_call>", ""),
        (f"<tool_call>[{EDIT}]</tool_call>", ""),
        (EDIT, ""),
        (f"  {EDIT}\n", ""),
        (f"[{EDIT}]", ""),
        (f'{{"type": "function", "function": {EDIT}}}', ""),
    ],
)
def test_the_usual_forms_give_one_call(text: str, content: str) -> None:
    parsed = parse_tool_calls(text)
    assert (parsed.content, parsed.calls) == (content, ONE)


@pytest.mark.parametrize(
    "body",
    [
        "{'name': 'edit', 'arguments': {'image_id': 'img_1'}}",
        '{"name": "edit", "arguments": {"image_id": "img_1",}}',
        '{"name": "edit", "arguments": {"image_id": "img_1"}',
        EDIT + "}",
        '{"name": "edit" "arguments": {"image_id": "img_1"}}',
        json.dumps({"name": " edit ", "arguments": json.dumps({"image_id": "img_1"})}),
    ],
)
def test_small_slips_are_repaired(body: str) -> None:
    assert parse_tool_calls(f"<tool_call>{body}</tool_call>").calls == ONE


@pytest.mark.parametrize(
    ("body", "name", "words"),
    [
        ("", "", "invalid JSON"),
        ("edit img_1", "", "invalid JSON"),
        ('{"name": "edit", "arguments": {"prompt": "a ca', "edit", "invalid JSON"),
        (EDIT + EDIT, "edit", "invalid JSON"),
        ('{"name": "edit"}', "edit", "it has no 'arguments'"),
        ('{"name": "edit", "arguments": [1]}', "edit", "'arguments' is not a JSON object"),
        ('{"arguments": {}}', "", "it has no 'name'"),
        ('{"name": 3, "arguments": {}}', "", "it has no 'name'"),
        ("[]", "", "not one JSON object"),
        ('{"name": "edit", "arguments": {"prompt": "\\ud800"}}', "edit", "no text"),
        ('{"name": "edit", "arguments": {"x": -Infinity}}', "edit", "a value that JSON does not have"),
        ("[" * 100_000, "", "nested too deeply"),
    ],
)
def test_what_is_not_clear_is_an_error_with_the_right_form(body: str, name: str, words: str) -> None:
    (call,) = parse_tool_calls(f"<tool_call>{body}</tool_call>").calls
    assert (call.name, call.arguments) == (name, {})
    assert call.error is not None
    assert words in call.error
    assert '<tool_call>{"name": "...", "arguments": {...}}</tool_call>' in call.error


def test_several_calls_keep_their_order_and_one_bad_one_spoils_no_other() -> None:
    text = f"<tool_call>{EDIT}</tool_call>\n<tool_call>oops</tool_call><tool_call>{EDIT}"
    calls = parse_tool_calls(text).calls
    assert [call.id for call in calls] == ["call_0", "call_1", "call_2"]
    assert [call.error is None for call in calls] == [True, False, True]


@pytest.mark.parametrize(
    "form", ["{0}\n{1}", "[{0}, {1}]", "```json\n{0}\n\n{1}\n```", "```json\n{0}\n```\n```\n{1}\n```"]
)
def test_several_calls_without_tags(form: str) -> None:
    other = '{"name": "look", "arguments": {"note": "}\\n{"}}'
    parsed = parse_tool_calls(form.replace("{0}", EDIT).replace("{1}", other))
    assert (parsed.content, parsed.calls) == ("", (*ONE, ToolCall("call_1", "look", {"note": "}\n{"})))


def test_one_bad_entry_of_a_list_spoils_no_other() -> None:
    calls = parse_tool_calls(f'[{EDIT}, {{"name": "look"}}, {EDIT}]').calls
    assert [(call.id, call.error is None) for call in calls] == [("call_0", True), ("call_1", False), ("call_2", True)]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"image_id": "img_1"}', {"image_id": "img_1"}),
        ("", {}),
        ("{'image_id': 'img_1',}", {"image_id": "img_1"}),
        ('{"image_id": "img_1"}}', {"image_id": "img_1"}),
    ],
)
def test_native_arguments_are_read_and_repaired(text: str, arguments: dict[str, Any]) -> None:
    assert native_call("a", "edit", text) == ToolCall("a", "edit", arguments)


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"x": ', "invalid JSON"), ("[1]", "not a JSON object"), ('{"x": NaN}', "a value that JSON does not have")],
)
def test_native_arguments_that_are_not_clear_are_an_error(text: str, words: str) -> None:
    call = native_call("a", "edit", text)
    assert (call.id, call.name, call.arguments) == ("a", "edit", {})
    assert words in str(call.error)


def test_a_missing_closing_tag_does_not_swallow_the_next_call() -> None:
    calls = parse_tool_calls(f"<tool_call>{EDIT}<tool_call>{EDIT}</tool_call>").calls
    assert [call.error for call in calls] == [None, None]


def test_tags_inside_a_string_end_nothing() -> None:
    arguments = {"prompt": "write </tool_call> and <tool_call> on it"}
    text = f"<tool_call>{json.dumps({'name': 'edit', 'arguments': arguments})}</tool_call>."
    parsed = parse_tool_calls(text)
    assert parsed.content == "."
    assert parsed.calls == (ToolCall("call_0", "edit", arguments),)


@pytest.mark.parametrize(
    "text",
    [
        "Just an answer.",
        '{"score": 7}',
        '```json\n{"score": 7}\n```',
        f"Call it like this: {EDIT}",
        "```python\nname = 'edit'\n```",
        f"```python\nx\n```\nCall it like this: {EDIT}",
        "[my name: 'edit', my arguments: none]",
        '[{"name": "edit", "description": "no call"}]',
        "",
    ],
)
def test_other_text_is_content(text: str) -> None:
    parsed = parse_tool_calls(text)
    assert (parsed.content, parsed.calls) == (text.strip(), ())


def test_a_flood_of_tags_is_read_in_no_time() -> None:
    begun = time.process_time()
    assert len(parse_tool_calls("<tool_call>" * 20_000).calls) == 20_000
    # 0.3 s here; four seconds when each tag copied the rest of the text.
    assert time.process_time() - begun < 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(st.tuples(st.from_regex(r"[a-z_]{1,20}", fullmatch=True), st.dictionaries(st.text(), JSON)), max_size=3)
)
def test_whatever_is_called_comes_back_equal(calls: list[tuple[str, dict[str, Any]]]) -> None:
    text = "".join(f"<tool_call>\n{json.dumps({'name': n, 'arguments': a})}\n</tool_call>\n" for n, a in calls)
    parsed = parse_tool_calls(text)
    assert parsed.content == ""
    assert [(call.name, call.arguments, call.error) for call in parsed.calls] == [(n, a, None) for n, a in calls]


PIECES = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "```json\n",
        "```\n",
        "\n",
        ",",
        '{"name": "edit", ',
        '"arguments": {',
        "}",
        "{",
        "[",
        '"',
        "'",
        "\\",
    ]
)


@given(st.text() | st.lists(PIECES).map("".join))
def test_no_native_arguments_break_the_reader(text: str) -> None:
    call = native_call("a", "edit", text)
    assert call.error is None or not call.arguments
    assert json.loads(json.dumps(dict(call.arguments))) == call.arguments


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.text(max_size=6), max_size=25).map("".join))
def test_no_text_breaks_the_reader(text: str) -> None:
    parsed = parse_tool_calls(text)
    assert [call.id for call in parsed.calls] == [f"call_{i}" for i in range(len(parsed.calls))]
    for call in parsed.calls:
        assert call.error is not None or call.name
        assert call.error is None or not call.arguments
