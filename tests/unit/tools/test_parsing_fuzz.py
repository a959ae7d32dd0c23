"""Nothing that a policy could write breaks the reader of calls, or keeps it busy."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings

from agentfly.lenient_json import read_with_slips
from agentfly.messages import ToolCall
from agentfly.tools import parse_tool_calls
from agentfly.tools.parsing import native_call
from tests.fuzz.growth import slower_than_linear
from tests.fuzz.texts import hostile_texts, texts

# With tools, forms of other families are looked for too.
NAMES = ("edit",)


def check(call: ToolCall) -> None:
    assert call.error is not None or call.name
    assert call.error is None or not call.arguments
    # It can be written, and read again.
    line = json.dumps([call.name, dict(call.arguments)], ensure_ascii=False, allow_nan=False)
    assert json.loads(line.encode()) == [call.name, call.arguments]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(texts())
def test_any_text_gives_calls_or_errors(text: str) -> None:
    for thinking in (False, True):
        parsed = parse_tool_calls(text, thinking=thinking, names=NAMES)
        assert [call.id for call in parsed.calls] == [f"call_{i}" for i in range(len(parsed.calls))]
        for call in parsed.calls:
            check(call)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(texts())
def test_any_native_arguments_give_a_call_or_an_error(text: str) -> None:
    check(native_call("a", "edit", text))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(texts())
def test_any_text_is_read_with_slips_or_refused(text: str) -> None:
    try:
        read_with_slips(text.strip())
    except ValueError:
        return


@pytest.mark.slow
def test_the_time_of_reading_grows_with_the_text_and_no_faster() -> None:
    assert slower_than_linear(lambda text: parse_tool_calls(text, names=NAMES), hostile_texts(50_000), quick=0.02) == []


def test_the_time_of_native_arguments_grows_with_their_text_and_no_faster() -> None:
    assert slower_than_linear(lambda text: native_call("a", "edit", text), hostile_texts(50_000), quick=0.02) == []


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "e", "arguments": {"a": "' + '{"' * 9000 + "}}</tool_call>",
        "<tool_call>{" * 83_000,
        '<tool_call>{"name": "e", "arguments": {' + "x" * 1_000_000,
        '[{"name": "e", "arguments": {}}' + ", {}" * 250_000 + "]",
    ],
    ids=["quotes", "tags", "letters", "listed"],
)
def test_a_flood_is_read_at_once(text: str) -> None:
    begun = time.process_time()
    parse_tool_calls(text, names=NAMES)
    # 0.1 s at most; 25 s when each error counted the lines before it, or the repair looked back.
    assert time.process_time() - begun < 1
