"""Messages read and write the forms of other programs without losing order, images or calls."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.errors import ConfigError
from agentfly.messages import ROLES, ImagePart, Message, TextPart, ToolCall, from_openai, text_message


def keep(source: Any) -> str:
    return f"img_{source}"


parts = st.one_of(
    st.builds(TextPart, st.text()), st.builds(ImagePart, st.from_regex(r"img_[0-9a-f]{12}", fullmatch=True))
)
calls = st.builds(
    ToolCall,
    st.text(),
    st.text(),
    st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.none(), st.lists(st.booleans()))),
    st.none() | st.text(),
)
messages = st.builds(
    Message,
    st.sampled_from(ROLES),
    st.lists(parts).map(tuple),
    st.lists(calls).map(tuple),
    st.none() | st.text(),
)


@pytest.mark.slow
@given(messages)
def test_a_message_comes_back_equal_from_json(message: Message) -> None:
    assert Message.from_dict(json.loads(json.dumps(message.to_dict()))) == message


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a"},
        {"type": "image_url", "image_url": {"url": "a"}},
        {"type": "image_url", "image_url": "a"},
        {"type": "input_image", "image_url": "a"},
        {"image": "a"},
        {"type": "image_url", "text": None, "image": None, "image_url": {"url": "a"}},
        {"text": None, "image": "a", "image_url": None},
    ],
)
def test_every_way_to_write_an_image_part_is_read(part: dict[str, Any]) -> None:
    message = from_openai({"role": "user", "content": ["look", part]}, keep)
    assert message.parts == (TextPart("look"), ImagePart("img_a"))


def test_reading_leaves_the_given_object_alone() -> None:
    given_message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}
    before = json.dumps(given_message)
    from_openai(given_message, keep)
    assert json.dumps(given_message) == before


def test_calls_of_an_assistant_are_read_with_their_ids() -> None:
    function = {"name": "edit", "arguments": '{"image_id": "img_1"}'}
    message = from_openai(
        {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "function": function}]}, keep
    )
    assert message.parts == ()
    assert message.tool_calls == (ToolCall("x", "edit", {"image_id": "img_1"}),)


@pytest.mark.parametrize("arguments", [None, "", " ", "null", '"null"', "None", "[]", [], {}, np.array([])])
def test_a_call_without_arguments_is_read_in_all_its_forms(arguments: Any) -> None:
    calls = [{"function": {"name": "edit", "arguments": arguments}}]
    message = from_openai({"role": "assistant", "content": "", "tool_calls": calls}, keep)
    assert message.tool_calls == (ToolCall("call_0", "edit"),)


def test_arguments_that_are_a_text_of_a_text_are_unwrapped_once() -> None:
    once, twice = json.dumps('{"a": 1}'), json.dumps(json.dumps('{"a": 1}'))
    calls = [{"function": {"name": "edit", "arguments": text}} for text in (once, twice)]
    first, second = from_openai({"role": "assistant", "content": "", "tool_calls": calls}, keep).tool_calls
    assert (first.arguments, first.error) == ({"a": 1}, None)
    assert second.error is not None


def test_a_call_may_stand_beside_an_empty_function() -> None:
    calls = [{"id": "x", "function": None, "name": "edit", "arguments": {"a": 1}}]
    message = from_openai({"role": "assistant", "content": None, "tool_calls": calls}, keep)
    assert message.tool_calls == (ToolCall("x", "edit", {"a": 1}),)


def test_the_role_developer_is_system() -> None:
    assert from_openai({"role": "developer", "content": "x"}, keep) == text_message("system", "x")


def test_rows_of_parquet_have_arrays_for_lists() -> None:
    calls = [{"id": "x", "function": {"name": "edit", "arguments": "{}"}}]
    row = {
        "role": "assistant",
        "content": np.array([{"type": "text", "text": "look"}, {"type": "image", "image": "a"}], dtype=object),
        "tool_calls": np.array(calls, dtype=object),
    }
    message = from_openai(row, keep)
    assert message.parts == (TextPart("look"), ImagePart("img_a"))
    assert message.tool_calls == (ToolCall("x", "edit"),)
    assert from_openai({**row, "tool_calls": np.array([])}, keep).tool_calls == ()
    assert from_openai({"role": "user", "content": np.array("hi")}, keep) == text_message("user", "hi")


@pytest.mark.parametrize("arguments", ['{"image_id": ', "[1, 2]", '"text"', [1]])
def test_arguments_that_are_no_object_become_an_error_of_that_call(arguments: Any) -> None:
    calls = [{"function": {"name": "edit", "arguments": arguments}}]
    (call,) = from_openai({"role": "assistant", "content": "", "tool_calls": calls}, keep).tool_calls
    assert call.id == "call_0"
    assert call.arguments == {}
    assert call.error is not None
    assert "JSON" in call.error


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("hello", "'role' and 'content'"),
        ({"content": "x"}, "'role'"),
        ({"role": "robot", "content": "x"}, "system, user, assistant, tool"),
        ({"role": "user", "content": 3}, "got int"),
        ({"role": "user", "content": b"x"}, "got bytes"),
        ({"role": "user", "content": [3]}, "got int"),
        ({"role": "user", "content": [{"type": "video", "video": "x"}]}, "'video'"),
        ({"role": "user", "content": [{"type": "image"}]}, "'image_url'"),
        ({"role": "user", "content": [{"type": "text", "image": "x"}]}, "under 'text'"),
        ({"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}, "'name'"),
        ({"role": "assistant", "content": "", "tool_calls": [{"function": None}]}, "'name'"),
        ({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": None}}]}, "'name'"),
        ({"role": "assistant", "content": "", "tool_calls": ["edit"]}, "'name'"),
        ({"role": "assistant", "content": "", "tool_calls": {"name": "edit"}}, "got dict"),
    ],
)
def test_what_is_no_message_is_refused_with_the_reason(message: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_openai(message, keep)


def test_openai_form_is_text_alone_without_images_and_parts_in_order_with_them() -> None:
    assert text_message("user", "hi").to_openai(str) == {"role": "user", "content": "hi"}
    mixed = Message("user", (ImagePart("img_a"), TextPart("hi"))).to_openai(lambda handle: f"data:{handle}")
    assert mixed["content"] == [
        {"type": "image_url", "image_url": {"url": "data:img_a"}},
        {"type": "text", "text": "hi"},
    ]


def test_arguments_are_a_json_string_for_servers_and_an_object_for_templates() -> None:
    message = Message("assistant", (), (ToolCall("c", "edit", {"prompt": "é"}),))
    sent: Any = message.to_openai(str)
    rendered: Any = message.to_template()
    assert sent["tool_calls"][0]["function"]["arguments"] == '{"prompt": "é"}'
    assert rendered["tool_calls"][0]["function"]["arguments"] == {"prompt": "é"}


def test_templates_see_placeholders_never_handles() -> None:
    content = Message("tool", (TextPart("img_2"), ImagePart("img_abc")), tool_call_id="c").to_template()["content"]
    assert content == [{"type": "text", "text": "img_2"}, {"type": "image"}]
