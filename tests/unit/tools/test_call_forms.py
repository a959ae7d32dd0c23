"""The forms of calls of other families: what is read, what is told to the model, and that no text takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.templates.families import CALL_FORMS
from agentfly.tools import parse_tool_calls
from agentfly.tools.call_forms import READERS

FORMS = {form.name: form for form in CALL_FORMS}
QUOTE = '<|"|>'


def read(form: str, text: str) -> list[tuple[str, dict[str, object], str | None]]:
    return [
        (c.name, dict(c.arguments), c.error) for c in parse_tool_calls(text, form=FORMS[form], names=["look"]).calls
    ]


@pytest.mark.parametrize(
    ("form", "text", "arguments"),
    [
        ("function-xml", "<tool_call>\n<function=look>\n</function>\n</tool_call>", {}),
        (
            "function-xml",
            "<function=look><parameter=a>1</parameter><parameter=b>\n<x>\n</parameter></function>",
            {"a": "1", "b": "<x>"},
        ),
        ("argument-pairs", "<tool_call>look</tool_call>", {}),
        (
            "argument-pairs",
            "<tool_call>look\n<arg_key>a</arg_key>\n<arg_value>b\nc</arg_value>\n</tool_call>",
            {"a": "b\nc"},
        ),
        (
            "call-tokens",
            f"<|tool_call>call:look{{a:[1,2.5,true,null],b:{{c:{QUOTE}x, y}}{QUOTE}}}}}<tool_call|>",
            {"a": [1, 2.5, True, None], "b": {"c": "x, y}"}},
        ),
        ("call-tokens", "<|tool_call>call:look{}<tool_call|>", {}),
        ("bracket-tokens", '[TOOL_CALLS]look[ARGS]{"a": "[b]"}', {"a": "[b]"}),
        ("bracket-tokens", '[TOOL_CALLS][{"name": "look", "arguments": {"a": 1}}]', {"a": 1}),
        (
            "python-tokens",
            "<|tool_call_start|>[look(a='x', b=[1, {'c': None}])]<|tool_call_end|>",
            {"a": "x", "b": [1, {"c": None}]},
        ),
    ],
)
def test_what_is_read(form: str, text: str, arguments: dict[str, object]) -> None:
    assert read(form, f"I look. {text}") == [("look", arguments, None)]
    assert parse_tool_calls(f"I look. {text} So.", form=FORMS[form]).content.split() == ["I", "look.", "So."]


@pytest.mark.parametrize(
    ("form", "text", "name"),
    [
        ("function-xml", "<tool_call><function=look><parameter=a>1</parameter>", "look"),
        ("function-xml", "<function=look><parameter=a>1</function>", "look"),
        ("function-xml", "<function=a b>x</function>", ""),
        ("argument-pairs", "<tool_call>look<arg_key>a</arg_key><arg_value>1</arg_value>", "look"),
        ("argument-pairs", "<tool_call>look<arg_key>a</arg_key></tool_call>", "look"),
        ("call-tokens", "<|tool_call>look{}<tool_call|>", ""),
        ("call-tokens", "<|tool_call>call:look{a:words}<tool_call|>", "look"),
        ("call-tokens", f"<|tool_call>call:look{{a:{QUOTE}b}}<tool_call|>", "look"),
        ("bracket-tokens", "[TOOL_CALLS]look[ARGS]{broken", "look"),
        ("bracket-tokens", "[TOOL_CALLS][1]", ""),
        ("python-tokens", "<|tool_call_start|>[look('x')]<|tool_call_end|>", "look"),
        ("python-tokens", "<|tool_call_start|>[look(a=f())]<|tool_call_end|>", "look"),
        ("python-tokens", "<|tool_call_start|>[look(]<|tool_call_end|>", ""),
    ],
)
def test_what_is_told_to_the_model(form: str, text: str, name: str) -> None:
    [(found, arguments, error)] = read(form, text)
    assert (found, arguments) == (name, {})
    assert error is not None
    assert error.endswith(f"Write {FORMS[form].example}")


def test_json_is_another_form_for_a_family_that_was_taught_its_own() -> None:
    json_call = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    [(_, _, error)] = read("function-xml", json_call)
    assert error == f"unreadable tool call: it is in another form. Write {FORMS['function-xml'].example}"
    assert read("json", json_call) == [("look", {}, None)]


@given(st.sampled_from(sorted(READERS)), st.text(alphabet='<>|/={}[]()"\n aA1:,_', max_size=60))
def test_no_text_raises(form: str, noise: str) -> None:
    for text in (noise, f"{FORMS[form].mark}{noise}", f"{FORMS[form].example}{noise}"):
        parse_tool_calls(text, form=FORMS[form], names=["look"])


@pytest.mark.parametrize("form", sorted(READERS))
def test_a_hostile_text_takes_no_long_time(form: str) -> None:
    """A hundred thousand characters that open, nest and never close."""
    for piece in (
        FORMS[form].mark,
        "<tool_call>",
        "<|tool_call>call:a{b:",
        "[TOOL_CALLS]a[ARGS]{",
        "<function=a><parameter=b>",
    ):
        text = piece * (100_000 // len(piece))
        began = time.process_time()
        calls = parse_tool_calls(text, form=FORMS[form], names=["look"]).calls
        assert time.process_time() - began < 2.0
        assert all(call.error for call in calls)
