"""Which text is a call, which is a draft, and which is a call in a form that the model must be told about."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.lenient_json import read_with_slips
from agentfly.messages import ToolCall
from agentfly.tools import parse_tool_calls

EDIT = '{"name": "edit", "arguments": {"image_id": "img_1"}}'
TAG = f"<tool_call>{EDIT}</tool_call>"
FORMS = [TAG, f"<tool_call>\n{EDIT}", f"```json\n{EDIT}\n```", f"~~~\n{EDIT}\n~~~", f"\n{EDIT}\n", f"[{EDIT}]"]
ONE = (ToolCall("call_0", "edit", {"image_id": "img_1"}),)
SWALLOWED = ToolCall("call_0", "edit", {}, "the call stood inside your thought: write it after </think>")


@pytest.mark.parametrize("draft", FORMS)
@pytest.mark.parametrize(
    "thought",
    [
        "<think>{}</think>Which circle?",
        "Maybe {}? No.</think>Which circle?",
        "<think>a</think>b</think>Maybe {}?<think>c</think>Which circle?",
    ],
)
def test_a_call_that_is_drafted_in_a_thought_is_content(thought: str, draft: str) -> None:
    text = thought.replace("{}", draft)
    parsed = parse_tool_calls(text)
    assert (parsed.content, parsed.calls) == (text, ())


@pytest.mark.parametrize("draft", FORMS)
@pytest.mark.parametrize("thought", ["<think>Maybe {}", "<think>a</think>I see.<think>Maybe {}", "I see.<think>{}. So"])
def test_a_thought_that_was_cut_has_no_call(thought: str, draft: str) -> None:
    text = thought.replace("{}", draft)
    parsed = parse_tool_calls(text, cut=True)
    assert (parsed.content, parsed.calls) == (text.strip(), ())


@pytest.mark.parametrize(
    "text",
    [
        f"{TAG}</think>",
        f"{TAG}\nthen </think> is written",
        f"```json\n{EDIT}\n```</think>",
        f"{EDIT}\n</think>\n",
        f"<think>I edit. {TAG}</think>\n",
        f"<think>I edit. {TAG}",
        f"<think>a</think>I see.<think>{TAG}",
        f"<think>a<think>{TAG}</think>",
        f"<tool_call>{{}}</tool_call>{TAG}</think>",
        f"{TAG.replace('img_1', '</think>')}</think>",
    ],
)
def test_a_call_that_a_thought_swallows_is_an_error_and_not_silence(text: str) -> None:
    parsed = parse_tool_calls(text)
    assert parsed.content == text.strip()
    assert parsed.calls == (SWALLOWED,)


def test_a_call_in_a_thought_that_the_prompt_opened_and_nothing_closed_is_an_error() -> None:
    for text in (f"I edit. {TAG}", f"I edit. {TAG}</think>", f"I edit.<think>{TAG}"):
        assert parse_tool_calls(text, thinking=True).calls == (SWALLOWED,)
        assert parse_tool_calls(text, thinking=True, cut=True).calls == ()


@pytest.mark.parametrize(
    "text", ["<think>a</think>", "<think>a", f"<think>{TAG[:-30]}</think>", "a</think>", "<think>"]
)
def test_a_thought_without_a_readable_call_is_no_error(text: str) -> None:
    for thinking in (False, True):
        assert parse_tool_calls(text, thinking=thinking).calls == ()


@pytest.mark.parametrize("call", FORMS)
@pytest.mark.parametrize("text", ["<think>a</think>{}<think>b</think>done", "{}<think>b</think>", "{}<think>b"])
def test_a_call_between_thoughts_is_read(text: str, call: str) -> None:
    parsed = parse_tool_calls(text.replace("{}", call))
    assert parsed.calls == ONE
    assert parsed.content == text.replace("{}", "")
    assert parse_tool_calls(f"a</think>{call}<think>b</think>done", thinking=True).calls == ONE


def test_calls_between_several_thoughts_are_read_in_order() -> None:
    other = TAG.replace("img_1", "img_2")
    parsed = parse_tool_calls(f"<think>{TAG}</think>One.{TAG}<think>b</think>Two.{other}")
    assert parsed.content == f"<think>{TAG}</think>One.<think>b</think>Two."
    assert parsed.calls == (*ONE, ToolCall("call_1", "edit", {"image_id": "img_2"}))


@pytest.mark.parametrize("draft", FORMS)
def test_a_text_that_begins_inside_a_thought_has_no_call_before_its_end(draft: str) -> None:
    assert parse_tool_calls(f"Maybe {draft}", thinking=True, cut=True).calls == ()
    assert parse_tool_calls(f"Maybe {draft}? </think>No.", thinking=True).calls == ()
    assert parse_tool_calls(f"Maybe {draft}? </think>{TAG}", thinking=True).calls == ONE


@pytest.mark.parametrize("call", FORMS)
def test_a_call_after_a_thought_is_read_and_the_thought_is_content(call: str) -> None:
    parsed = parse_tool_calls(f"<think>\nMaybe {TAG}?\n</think>\n\n{call}")
    assert (parsed.content, parsed.calls) == (f"<think>\nMaybe {TAG}?\n</think>", ONE)


@pytest.mark.parametrize("form", ["<tool_call>{}</tool_call>", "{}", "```json\n{}\n```", "[{}]"])
@pytest.mark.parametrize("mark", ["</think>", "<think>", "</think> and <think>", "<think>a</think>"])
def test_marks_of_thoughts_inside_a_string_are_text(form: str, mark: str) -> None:
    body = json.dumps({"name": "edit", "arguments": {"prompt": f"write {mark} on it"}})
    for before in ("", "<think>a</think>\n"):
        parsed = parse_tool_calls(before + form.replace("{}", body))
        assert parsed.calls == (ToolCall("call_0", "edit", {"prompt": f"write {mark} on it"}),)
        assert parsed.content == before.strip()


@given(st.text("ab\n", max_size=20), st.sampled_from(FORMS))
def test_a_thought_of_any_words_changes_no_call_after_it(words: str, call: str) -> None:
    assert parse_tool_calls(f"<think>{words}</think>{call}").calls == ONE


@pytest.mark.parametrize(
    "text",
    [
        f"```json\r\n{EDIT}\r\n```",
        f"```JSON\n{EDIT}\n```",
        f"```Json\n{EDIT}\n```",
        f"``` json\n{EDIT}\n```",
        f"```json {EDIT}```",
        f"```json{EDIT}```",
        f"```{EDIT}```",
        f"``` {EDIT}\n```",
        f"~~~json\n{EDIT}\n~~~",
        f"~~~\n{EDIT}\n~~~",
        f"````json\n{EDIT}\n````",
        f"```TOOL_CALL\r\n{EDIT}\r\n```",
        f"```json \t\r\n\r\n{EDIT}\r\n\r\n```",
        f"```json\r\n{EDIT}",
        f"<tool_call>```json {EDIT}```</tool_call>",
        f"<tool_call>\r\n~~~JSON\r\n{EDIT}\r\n~~~\r\n</tool_call>",
        f"{EDIT}\r\n",
    ],
)
def test_a_fence_is_seen_however_it_is_written(text: str) -> None:
    parsed = parse_tool_calls(text)
    assert (parsed.content, parsed.calls) == ("", ONE)


def test_a_fence_ends_after_its_json() -> None:
    body = json.dumps({"name": "edit", "arguments": {"prompt": "write ``` on it"}})
    parsed = parse_tool_calls(f"So:\n```json\n{body}\n```\nDone.")
    assert parsed.calls == (ToolCall("call_0", "edit", {"prompt": "write ``` on it"}),)
    assert parsed.content == "So:\n\nDone."


def test_the_end_of_one_fence_is_not_the_beginning_of_another() -> None:
    text = '```python\nx = 1\n```\n{"name": "Ann", "arguments": 3}\n```\ny\n```'
    assert parse_tool_calls(text).calls == ()


ARGUMENTS = '{"image_id": "img_1"}'
TOOLS = ("edit", "give_answer")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"<tool_calls>[{EDIT}]</tool_calls>", ""),
        (f"<tool_calls>\n{EDIT}\n</tool_calls>", ""),
        (f"<function_call>{EDIT}</function_call>", ""),
        (f"<TOOL_CALL>{EDIT}</TOOL_CALL>", ""),
        (f"<tool_call >{EDIT}</tool_call>", ""),
        (f'<tool_call id="1">{EDIT}</tool_call>', ""),
        ('<function_calls><invoke name="edit"></invoke></function_calls>', ""),
        ('<invoke name="edit"><parameter name="image_id">img_1</parameter></invoke>', "edit"),
        (f"<function=edit>{ARGUMENTS}</function>", "edit"),
        (f"[TOOL_CALLS][{EDIT}]", ""),
        (f"[TOOL_CALLS] [{EDIT}]", ""),
        (f"[TOOL_CALLS]edit{ARGUMENTS}", "edit"),
        (f"[TOOL_CALLS]edit[ARGS]{ARGUMENTS}", "edit"),
        (f"<|python_tag|>{EDIT}", ""),
        (f"functools[{EDIT}]", ""),
        (f'{{"name": "edit", "parameters": {ARGUMENTS}}}', "edit"),
        (f'{{"type": "function", "name": "edit", "parameters": {ARGUMENTS}}}', "edit"),
        (f'{{"type": "function", "function": {{"name": "edit", "parameters": {ARGUMENTS}}}}}', "edit"),
        (f'[{{"name": "edit", "parameters": {ARGUMENTS}}}]', "edit"),
        (f'I will edit.\n{{"name": "edit", "args": {ARGUMENTS}}}', "edit"),
        (f'```json\n{{"name": "edit", "parameters": {ARGUMENTS}}}\n```', "edit"),
        (f'```json {{"tool": "edit", "input": {ARGUMENTS}}}```', "edit"),
        (f'{{"action": "edit", "action_input": {ARGUMENTS}}}', "edit"),
        (f'{{"tool_calls": [{EDIT}]}}', ""),
        (f"I will edit.\n{EDIT}", "edit"),
        (f"```python\n{EDIT}\n```", "edit"),
        (f"Action: edit\nAction Input: {ARGUMENTS}", "edit"),
        ('edit(image_id="img_1", prompt="a (red) hat")', "edit"),
        ('edit(\n    image_id="img_1",\n)', "edit"),
        ('[edit(image_id="img_1"), edit(image_id="img_2")]', "edit"),
        ('```python\nedit(image_id="img_1")\n```', "edit"),
        ('```tool_code\nprint(default_api.edit(image_id="img_1"))\n```', "default_api.edit"),
        ('I will edit.\n\nedit(image_id="img_1")', "edit"),
        ("give_answer()", "give_answer"),
    ],
)
def test_a_call_in_another_form_is_an_error_that_gives_the_right_one(text: str, name: str) -> None:
    for written in (text, f"<think>hm</think>\n{text}"):
        (call,) = parse_tool_calls(written, names=TOOLS).calls
        assert (call.name, call.arguments) == (name, {})
        assert '<tool_call>{"name": "...", "arguments": {...}}</tool_call>' in str(call.error)


@pytest.mark.parametrize(
    "text",
    [
        "I made the circle green (as asked).",
        "The tags <tool_calls> and [TOOL_CALLS] are not used here.",
        "It is <b>done</b> [1] {x} (see f(x)).",
        "Call edit(image_id) if you want more.",
        "f(x) = 2",
        "print('hello')",
        "```python\ndef f(a=1):\n    return a\n\nprint(f(a))\n```",
        '{"name": "Ann", "age": 3}',
        '{"score": 7, "arguments": "none"}',
        '{"name": "edit", "description": "Edit.", "parameters": {"type": "object", "properties": {}}}',
        "My action: edit it.\nThe input: none",
        "```python\ndef main():\n    print(1)\n\nmain()\n```",
        "def main():\n    print(1)\n\nmain()",
        "Sure: call\nprint()",
        "The answer is:\nf(x=1)",
        "The value is\nO(n=2)",
        '{"name": "Ann", "input": {"a": 1}}',
        'People:\n{"name": "Ann", "args": {"a": 1}}\n{"name": "Bob", "args": {"a": 2}}',
        '{"tool_calls": [{"name": "Ann", "count": 3}]}',
        "Action: sleep\nAction Input: none",
    ],
)
def test_an_answer_that_only_looks_a_little_like_a_call_is_content(text: str) -> None:
    parsed = parse_tool_calls(text, names=TOOLS)
    assert (parsed.content, parsed.calls) == (text, ())


@pytest.mark.parametrize(
    "text",
    ['edit(image_id="img_1")', f"[TOOL_CALLS][{EDIT}]", f'{{"tool": "edit", "input": {ARGUMENTS}}}', f"So:\n{EDIT}"],
)
def test_a_policy_without_tools_answers_whatever_it_writes(text: str) -> None:
    assert parse_tool_calls(text).calls == ()


def test_a_call_in_another_form_is_seen_behind_an_object_that_is_none() -> None:
    text = f'{{"name": "Ann", "input": {{"a": 1}}}}\n{{"name": "edit", "input": {ARGUMENTS}}}'
    (call,) = parse_tool_calls(text, names=TOOLS).calls
    assert call.name == "edit"
    assert call.error is not None


def call_of(value: str) -> ToolCall:
    (call,) = parse_tool_calls(f'<tool_call>{{"name": "edit", "arguments": {{"x": {value}}}}}</tool_call>').calls
    return call


@pytest.mark.parametrize(
    "value",
    [
        '"write "HELLO"',
        '"write "a" and "b"',
        '"a 6" nail"',
        '"say "hi", then go"',
        "'x' y 'z'",
        '"6" by 4" nail"',
        '"""x"""',
        "1_000",
        "1 000",
        "07",
        "1px",
        "None or 0.3",
        "True and False",
        "0.1+0.2",
        "2*3",
        "1/2",
        "",
        "undefined",
        "img_1 img_2",
        "img_1.png",
        "int(3)",
        "[1 2 3]",
        '1, "y": ',
        '1, // a comment\n "y": 2',
        '"a" + "b"',
        '"a", , "y": 2',
        '"a" "b"',
    ],
)
def test_a_repair_that_would_invent_or_drop_text_is_refused(value: str) -> None:
    call = call_of(value + " ," if not value.strip() else value)
    assert call.arguments == {}
    assert "invalid JSON" in str(call.error)


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("'a'", "a"),
        ("\u201ca\u201d", "a"),
        ('"a\nb\tc"', "a\nb\tc"),
        (r'"it\'s"', "it's"),
        (r"'it\'s'", "it's"),
        ('"C:\\dir"', "C:\\dir"),
        ('"a "red" hat"', 'a "red" hat'),
        ("'a \"red\" hat'", 'a "red" hat'),
        ("'the dog's ears'", "the dog's ears"),
        ("True", True),
        ("None", None),
        ("img_1", "img_1"),
        (".5", 0.5),
        ("+3", 3),
        ("2.", 2.0),
        ("[1, 2,]", [1, 2]),
        ("{'a': [img_1, 'b']}", {"a": ["img_1", "b"]}),
        (r"'\u00e9\n'", "\u00e9\n"),
    ],
)
def test_a_slip_whose_meaning_is_beyond_doubt_is_repaired(value: str, meant: Any) -> None:
    # The comma too many is what makes the JSON of each of them invalid.
    call = call_of(f"{value},")
    assert (call.arguments, call.error) == ({"x": meant}, None)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('{"a": [1, 2}}', {"a": [1, 2]}),
        ('{"a": {"b": 1}', {"a": {"b": 1}}),
        ('{"a": 1}}]}', {"a": 1}),
        ('{a: 1 "b": 2}', {"a": 1, "b": 2}),
        ("['a', {'b': True}]", ["a", {"b": True}]),
    ],
)
def test_wrong_brackets_at_the_end_and_a_missing_comma_are_repaired(text: str, meant: Any) -> None:
    assert read_with_slips(text) == meant


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2}, "b": 3}', '{"a": 1} {"b": 2}', '{"a": ', "{'a'}", "a", "", "{,}", "[,]"]
)
def test_brackets_that_are_wrong_in_the_middle_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_with_slips(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=3) | st.dictionaries(st.text(), JSON, max_size=3), st.sampled_from([None, 0, 2]))
def test_json_is_read_as_it_is(value: Any, indent: int | None) -> None:
    assert read_with_slips(json.dumps(value, indent=indent)) == value
    assert read_with_slips(json.dumps(value, indent=indent, ensure_ascii=False)) == value


PYTHON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="ascii", exclude_categories=["Cc"])),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), PYTHON, max_size=3))
def test_a_dictionary_of_python_is_read_as_it_is(value: dict[str, Any]) -> None:
    assert read_with_slips(repr(value)) == value
