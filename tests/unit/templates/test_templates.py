"""The shipped templates, byte for byte, and the promise that a conversation is a prefix of its continuation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfly.errors import TemplateError
from agentfly.messages import ImagePart, Message, TextPart, ToolCall, text_message
from agentfly.templates import available_templates, load_template, loader, register_template, template_names

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
LOOK = {
    "type": "function",
    "function": {"name": "look", "description": "Look — ü.", "parameters": {"type": "object", "properties": {}}},
}
TOOL_TEXT = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    '{"type": "function", "function": {"name": "look", "description": "Look — ü.", '
    '"parameters": {"type": "object", "properties": {}}}}\n'
    "</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
USER = Message("user", (ImagePart("img_a"), TextPart("Which one?"), ImagePart("img_b")))
CALLS = (ToolCall("0", "look", {"x": 1, "who": "Zoë"}), ToolCall("1", "look"))
TALK = (
    USER,
    Message("assistant", (TextPart("Let me see."),), CALLS),
    Message("tool", (TextPart("one "), ImagePart("img_c")), tool_call_id="0"),
    text_message("tool", "two"),
    text_message("assistant", "The first."),
    text_message("user", "Thanks."),
)
CALL_TEXT = (
    '<tool_call>\n{"name": "look", "arguments": {"x": 1, "who": "Zoë"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
)
# What follows the system turn where tool results come in a user turn: Qwen3-VL's own rendering of the same messages.
TALK_TEXT = (
    f"<|im_start|>user\n{IMAGE}Which one?{IMAGE}<|im_end|>\n"
    f"<|im_start|>assistant\nLet me see.\n{CALL_TEXT}<|im_end|>\n"
    f"<|im_start|>user\n<tool_response>\none {IMAGE}\n</tool_response>\n"
    "<tool_response>\ntwo\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\nThe first.<|im_end|>\n"
    "<|im_start|>user\nThanks.<|im_end|>\n"
)
SPEAK = "<|im_start|>assistant\n"
SYSTEM = text_message("system", "You edit.")


def render(name: str, messages: Any, tools: Any = None, *, prompt: bool = False) -> str:
    """As transformers, and with it the codec and vLLM, renders a template."""
    from transformers.utils.chat_template_utils import render_jinja_template

    plain = [message.to_template() for message in messages]
    done, _ = render_jinja_template([plain], tools, chat_template=load_template(name), add_generation_prompt=prompt)
    return str(done[0])


@pytest.mark.parametrize(
    ("name", "system", "tools", "expected"),
    [
        ("qwen2.5-vl-system-tool", None, None, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"),
        ("qwen2.5-vl-system-tool", SYSTEM, None, "<|im_start|>system\nYou edit.<|im_end|>\n"),
        ("qwen2.5-vl-system-tool", SYSTEM, [LOOK], f"<|im_start|>system\nYou edit.\n\n{TOOL_TEXT}<|im_end|>\n"),
        (
            "qwen2.5-vl-system-tool",
            None,
            [LOOK],
            f"<|im_start|>system\nYou are a helpful assistant.\n\n{TOOL_TEXT}<|im_end|>\n",
        ),
        ("qwen3-vl", None, None, ""),
        ("qwen3-vl", SYSTEM, None, "<|im_start|>system\nYou edit.<|im_end|>\n"),
        ("qwen3-vl", SYSTEM, [LOOK], f"<|im_start|>system\nYou edit.\n\n{TOOL_TEXT}<|im_end|>\n"),
        ("qwen3-vl", None, [LOOK], f"<|im_start|>system\n{TOOL_TEXT}<|im_end|>\n"),
    ],
)
def test_a_whole_conversation(name: str, system: Message | None, tools: Any, expected: str) -> None:
    messages = [*([system] if system else []), *TALK]
    assert render(name, messages, tools, prompt=True) == expected + TALK_TEXT + SPEAK


@pytest.mark.parametrize("tools", [None, [LOOK]])
def test_qwen25_vl_gives_every_role_its_own_turn_and_has_no_place_for_schemas(tools: Any) -> None:
    """The official rendering, which has no tool calls of the assistant; those are in the form that Qwen was taught."""
    expected = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{IMAGE}Which one?{IMAGE}<|im_end|>\n"
        f"<|im_start|>assistant\nLet me see.\n{CALL_TEXT}<|im_end|>\n"
        f"<|im_start|>tool\none {IMAGE}<|im_end|>\n"
        "<|im_start|>tool\ntwo<|im_end|>\n"
        "<|im_start|>assistant\nThe first.<|im_end|>\n"
        "<|im_start|>user\nThanks.<|im_end|>\n"
    )
    assert render("qwen2.5-vl", TALK, tools, prompt=True) == expected + SPEAK
    told = render("qwen2.5-vl", [SYSTEM, USER])
    assert told == f"<|im_start|>system\nYou edit.<|im_end|>\n<|im_start|>user\n{IMAGE}Which one?{IMAGE}<|im_end|>\n"


def test_compact_tool_names_the_tools_and_spares_the_rest() -> None:
    expected = (
        "<|im_start|>system\nlook<|im_end|>\n"
        f"<|im_start|>user\n{IMAGE}Which one?{IMAGE}<|im_end|>\n"
        '<|im_start|>assistant\nLet me see.<tool_call>{"name": "look", "arguments": {"x": 1, "who": "Zoë"}}</tool_call>'
        '<tool_call>{"name": "look", "arguments": {}}</tool_call><|im_end|>\n'
        f"<|im_start|>user\n<tool_response>one {IMAGE}</tool_response><tool_response>two</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nThe first.<|im_end|>\n<|im_start|>user\nThanks.<|im_end|>\n"
    )
    assert render("compact-tool", TALK, [LOOK], prompt=True) == expected + SPEAK


@pytest.mark.parametrize("name", ["qwen2.5-vl-system-tool", "qwen2.5-vl", "qwen3-vl"])
def test_a_call_without_words_has_no_empty_line_and_a_later_system_message_is_not_lost(name: str) -> None:
    messages = [USER, Message("assistant", (), CALLS[1:]), text_message("system", "Be brief.")]
    tail = '<|im_start|>assistant\n<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call><|im_end|>\n'
    assert render(name, messages).endswith(f"{tail}<|im_start|>system\nBe brief.<|im_end|>\n")


TEXT = st.text(alphabet='ab {}<>|/_\n"\\é', max_size=12)
PARTS = st.lists(TEXT.map(TextPart) | st.sampled_from(["img_a", "img_b"]).map(ImagePart), max_size=3).map(tuple)
CALL = st.builds(ToolCall, st.just("0"), st.sampled_from(["look", "edit"]), st.dictionaries(TEXT, TEXT | st.integers()))
TURNS = st.one_of(
    st.builds(Message, st.just("user"), PARTS),
    st.builds(Message, st.just("assistant"), TEXT.map(lambda text: (TextPart(text),)), st.lists(CALL).map(tuple)),
    st.builds(Message, st.just("tool"), PARTS),
)
TALKS = st.tuples(st.lists(st.just(SYSTEM), max_size=1), st.lists(TURNS, min_size=2, max_size=6)).map(
    lambda pair: pair[0] + pair[1]
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in template_names() if IMAGE in load_template(name)])
@settings(max_examples=60, deadline=None)
@given(messages=TALKS, tools=st.sampled_from([None, [LOOK]]))
def test_a_conversation_is_a_prefix_of_its_continuation(name: str, messages: list[Message], tools: Any) -> None:
    """For every message; only a run of tool messages, which share a turn, is left open between two of them."""
    whole = render(name, messages, tools, prompt=True)
    assert whole.count(IMAGE) == sum(len(message.images) for message in messages)
    for n in range(1, len(messages)):
        part = render(name, messages[:n], tools)
        following = render(name, messages[: n + 1], tools)
        shared = messages[n - 1].role == messages[n].role == "tool" and name != "qwen2.5-vl"
        assert following.startswith(part.removesuffix("<|im_end|>\n") if shared else part)
        if messages[n].role == "assistant":
            assert following.startswith(render(name, messages[:n], tools, prompt=True))


@pytest.fixture
def registry() -> Iterator[None]:
    yield
    loader._registered.clear()


@pytest.mark.usefixtures("registry")
def test_own_templates_are_registered_as_text_or_by_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("{{ messages[0].content }}", encoding="utf-8")
    register_template("mine", file)
    register_template("yours", "{% for m in messages %}{{ m.role }}{% endfor %}")
    assert (render("mine", [SYSTEM]), render("yours", TALK[:2])) == ("You edit.", "userassistant")
    assert available_templates() == sorted([*template_names(), "mine", "yours"])
    register_template("mine", "{{ 2 }}")
    assert load_template("mine") == "{{ 2 }}"
    with pytest.raises(TemplateError, match="Did you mean 'yours'"):
        load_template("your")


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("qwen3-vl", "{{ 1 }}", "comes with the package"),
        ("a/b", "{{ 1 }}", "must not look like a path"),
        ("mine", "no/such/file", "cannot be read"),
        ("mine", "just {words}", "no Jinja in it"),
    ],
)
def test_what_cannot_be_registered(name: str, source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        register_template(name, source)
    assert available_templates() == list(template_names())


def test_a_path_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{{ 1 }}", encoding="utf-8")
    assert load_template(str(file)) == "{{ 1 }}"
    file.write_text("words", encoding="utf-8")
    with pytest.raises(TemplateError, match="no Jinja in it"):
        load_template(str(file))
