"""Answers in all the forms that servers give them, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from agentfly.agents.llm_backends import ClientBackend, ClientConfig
from agentfly.agents.llm_backends.openai_format import Reply, wire_messages
from agentfly.errors import BackendError
from agentfly.messages import Message, TextPart, ToolCall
from tests.unit.agents.conftest import ChatServer, changed, completion, delta, said, stream
from tests.unit.agents.llm_backends.test_client import TOOL, client, heard, request


def called(*calls: Any) -> Any:
    return completion(None, finish="tool_calls", calls=list(calls))


def call(arguments: Any, name: str | None = "look", **fields: Any) -> dict[str, Any]:
    return {"id": "a", "type": "function", "function": {"name": name, "arguments": arguments}, **fields}


async def test_a_thought_is_closed_by_the_end_of_the_turn_and_left_open_by_its_limit(server: ChatServer) -> None:
    thought = delta(reasoning_content="hm")
    for last, text in (
        ({"index": 0, "delta": None, "finish_reason": "stop"}, "<think>hm</think>"),
        ({"index": 0, "delta": None, "finish_reason": "length"}, "<think>hm"),
        (delta(finish="MAX_TOKENS"), "<think>hm"),
    ):
        server.say(stream(thought, last))
        turn, deltas = await heard(client(server), request())
        assert turn.text == "".join(deltas) == text


NOTHING: tuple[Any, ...] = ("", " ", None, "null", '"null"', '""', "None", "undefined", "[]", [], {}, "{}")
ODD_ARGUMENTS: list[tuple[Any, dict[str, Any]]] = [
    ('{"x": 1}', {"x": 1}),
    ('"{\\"x\\": 1}"', {"x": 1}),
    ({"x": [1, {"ü": None}]}, {"x": [1, {"ü": None}]}),
    *[(nothing, {}) for nothing in NOTHING],
]


@pytest.mark.parametrize(("arguments", "read"), ODD_ARGUMENTS)
async def test_native_arguments_are_read_in_all_their_forms(
    server: ChatServer, arguments: Any, read: dict[str, Any]
) -> None:
    fragment = {"index": 0, **call(arguments)}
    server.say(called(call(arguments)), stream(delta(tool_calls=[fragment]), delta(finish="tool_calls")))
    whole = await client(server).generate(request(tools=[TOOL]))
    streamed, _ = await heard(client(server), request(tools=[TOOL]))
    assert whole.tool_calls == streamed.tool_calls == (ToolCall("a", "look", read),)


@pytest.mark.parametrize("arguments", ['"text"', "7", 7, True, "[1]", [1], '"\\"{}\\""'])
async def test_native_arguments_that_are_no_object_are_an_observation(server: ChatServer, arguments: Any) -> None:
    server.say(called(call(arguments)))
    (made,) = (await client(server).generate(request(tools=[TOOL]))).tool_calls or ()
    assert (made.name, made.arguments) == ("look", {})
    assert "unreadable arguments" in str(made.error)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"id": "a", "type": "function", "name": "look", "arguments": "{}"}, ToolCall("a", "look")),
        ({"id": "a", "type": "function", "function": None}, ToolCall("a", "")),
        ({"id": None, "function": {"name": "look", "arguments": None}}, ToolCall("call_0", "look")),
        (call("{}", name=None), ToolCall("a", "")),
        ({**call("{}"), "id": 7}, ToolCall("call_0", "look")),
    ],
)
async def test_odd_native_calls_do_not_end_the_chain(server: ChatServer, given: Any, made: ToolCall) -> None:
    server.say(called(given))
    assert (await client(server).generate(request(tools=[TOOL]))).tool_calls == (made,)


async def test_ids_of_native_calls_are_unique_within_a_message(server: ChatServer) -> None:
    ids = ["a", "a", "", "call_2", "a_2", "a"]
    server.say(called(*({**call("{}"), "id": call_id} for call_id in ids)))
    turn = await client(server).generate(request(tools=[TOOL]))
    assert [made.id for made in turn.tool_calls or ()] == ["a", "a_2", "call_2", "call_2_2", "a_2_2", "a_3"]


def turn(*ids: str) -> list[Message]:
    """Return a turn of calls with these ids, and their results, which name their place."""
    results = [Message("tool", (TextPart(str(place)),), tool_call_id=name) for place, name in enumerate(ids)]
    return [Message("assistant", (), tuple(ToolCall(name, "look") for name in ids)), *results]


def sent_ids(*turns: list[Message]) -> list[tuple[list[str], list[str]]]:
    """Return the ids of the calls and of the results of each turn, as they are sent."""
    sent: list[tuple[list[str], list[str]]] = []
    for message in wire_messages([message for one in turns for message in one], {}):
        fields: Any = message
        if fields["role"] == "assistant":
            sent.append(([one["id"] for one in fields["tool_calls"]], []))
        else:
            sent[-1][1].append(fields["tool_call_id"])
    return sent


def test_ids_that_repeat_in_each_turn_are_unique_in_what_is_sent() -> None:
    turns = [turn("call_0", "call_1"), turn("call_0"), turn("call_0", "call_0_2", "x")]
    sent = sent_ids(*turns)
    assert [calls for calls, _ in sent] == [["call_0", "call_1"], ["call_0_3"], ["call_0_4", "call_0_2", "x"]]
    assert all(calls == results for calls, results in sent)
    assert turns[1][0].tool_calls[0].id == "call_0"  # what is kept stays as it was


_IDS = st.lists(st.lists(st.sampled_from(["call_0", "call_1", "call_0_2", "a", ""]), max_size=4), max_size=6)


@given(_IDS)
def test_every_result_is_sent_with_the_id_of_its_call(ids: list[list[str]]) -> None:
    turns = [turn(*names) for names in ids if names]
    sent = sent_ids(*turns)
    given_ids = [name for names in ids for name in names]
    sent_calls = [name for calls, _ in sent for name in calls]
    assert all(calls == results for calls, results in sent)
    assert len(set(sent_calls)) == len(sent_calls)
    assert all(
        after == before for before, after in zip(given_ids, sent_calls, strict=True) if given_ids.count(before) == 1
    )
    assert sent == sent_ids(*turns)


@pytest.mark.parametrize(
    "more", [{"logprobs": []}, {"logprobs": {"content": "x"}}, {"logprobs": {"content": [None]}}, {"logprobs": "none"}]
)
async def test_odd_fields_that_nobody_asked_for_do_not_spoil_an_answer(server: ChatServer, more: Any) -> None:
    message = {"content": "ok", "refusal": {"none": True}, "tool_calls": {}, "reasoning": 3}
    server.say(changed(choices=[{"index": 0, "message": message, "finish_reason": "stop", **more}]))
    turn = await client(server).generate(request())
    assert (turn.text, turn.tool_calls) == ("ok", None)


def piece(name: str | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    return {**fields, "function": {"name": name, "arguments": arguments}}


ONE = (ToolCall("a", "look", {"x": 1}),)
TWO = (ToolCall("a", "look", {"x": 1}), ToolCall("b", "look", {"x": 2}))
UNNAMED = (ToolCall("call_0", "look", {"x": 1}), ToolCall("call_1", "look", {"x": 2}))
X1, X2 = '{"x": 1}', '{"x": 2}'
HALVES = ('{"x"', ": 1}")
# Each case is the calls of each piece of a stream, and what they are.
STREAMS: dict[str, tuple[list[list[dict[str, Any]]], tuple[ToolCall, ...]]] = {
    "one index, two ids": ([[piece("look", X1, index=0, id="a")], [piece("look", X2, index=0, id="b")]], TWO),
    "one index, two ids, in pieces": (
        [
            [piece("look", "", index=0, id="a")],
            [piece(None, HALVES[0], index=0)],
            [piece(None, HALVES[1], index=0)],
            [piece("look", None, index=0, id="b")],
            [piece(None, X2, index=0)],
        ],
        TWO,
    ),
    "one index, pieces go by their id": (
        [
            [piece("look", "", index=0, id="a")],
            [piece("look", "", index=0, id="b")],
            [piece(None, X1, index=0, id="a")],
            [piece(None, X2, index=0, id="b")],
        ],
        TWO,
    ),
    "no index": ([[piece("look", X1, id="a")], [piece("look", X2, id="b")]], TWO),
    "no index, in pieces": (
        [
            [piece("look", HALVES[0], id="a")],
            [piece(None, HALVES[1])],
            [piece("look", "", id="b")],
            [piece(None, X2)],
        ],
        TWO,
    ),
    "two in one delta": ([[piece("look", X1, index=0, id="a"), piece("look", X2, index=1, id="b")]], TWO),
    "two in one delta, one index": ([[piece("look", X1, index=0, id="a"), piece("look", X2, index=0, id="b")]], TWO),
    "two in one delta, no index": ([[piece("look", X1, id="a"), piece("look", X2, id="b")]], TWO),
    "two in one delta, empty ids": ([[piece("look", X1, index=0, id=""), piece("look", X2, index=0, id="")]], UNNAMED),
    "neither index nor id": ([[piece("look", X1)], [piece("look", X2)]], UNNAMED),
    "neither, in pieces": ([[piece("look", HALVES[0])], [piece(None, HALVES[1])], [piece("look", X2)]], UNNAMED),
    "neither, two tools without arguments": (
        [[piece("look", "")], [piece("see", "")]],
        (ToolCall("call_0", "look"), ToolCall("call_1", "see")),
    ),
    "one index, other tool": (
        [[piece("look", X1, index=0)], [piece("see", X2, index=0)]],
        (ToolCall("call_0", "look", {"x": 1}), ToolCall("call_1", "see", {"x": 2})),
    ),
    "the name is repeated": (
        [[piece("look", HALVES[0], index=0, id="a")], [piece("look", HALVES[1], index=0, id="a")]],
        ONE,
    ),
    "the name is repeated without the id": (
        [[piece("look", HALVES[0], index=0, id="a")], [piece("look", HALVES[1], index=0)]],
        ONE,
    ),
    "the name is repeated at the end": (
        [[piece("look", X1, index=0, id="a")], [piece("look", "", index=0, id="a")]],
        ONE,
    ),
    "the name comes in pieces": (
        [[piece("lo", "", index=0, id="a")], [piece("ok", "", index=0)], [piece(None, X1, index=0)]],
        ONE,
    ),
    "another id with each piece": (
        [
            [piece("look", "", index=0, id="a")],
            [piece(None, HALVES[0], index=0, id="b")],
            [piece(None, HALVES[1], index=0, id="c")],
        ],
        ONE,
    ),
    "the id comes late": ([[piece("look", "", index=0)], [piece(None, X1, index=0, id="a")]], ONE),
    "an object at once": ([[piece("look", {"x": 1}, index=0, id="a")]], ONE),
    "out of order": ([[piece("look", X2, index=1, id="b")], [piece("look", X1, index=0, id="a")]], TWO),
    "one id, two indexes": (
        [[piece("look", X1, index=0, id="a")], [piece("look", X2, index=1, id="a")]],
        (ToolCall("a", "look", {"x": 1}), ToolCall("a_2", "look", {"x": 2})),
    ),
    "a null among them": ([[{"index": 0, "function": None}], [piece("look", X1, index=0, id="a")]], ONE),
}


@pytest.mark.parametrize("case", STREAMS)
async def test_streamed_calls_come_together_however_the_server_counts_them(server: ChatServer, case: str) -> None:
    pieces, calls = STREAMS[case]
    server.say(stream(*(delta(tool_calls=each) for each in pieces), delta(finish="tool_calls")))
    turn, _ = await heard(client(server), request(tools=[TOOL]))
    assert turn.tool_calls == calls


async def test_pieces_without_a_delta_and_usage_without_numbers(server: ChatServer) -> None:
    server.say(
        stream(
            {"index": 0, "delta": None, "finish_reason": None},
            {"index": 0},
            delta(content="hi", tool_calls=None),
            '{"id": "c", "choices": null, "usage": {}}',
            {"index": 0, "delta": None, "finish_reason": "stop"},
            '{"id": "c", "choices": [], "usage": {"prompt_tokens": null, "completion_tokens": "3"}}',
        )
    )
    turn, deltas = await heard(client(server), request())
    assert (turn.text, deltas, turn.finish_reason) == ("hi", ["hi"], "stop")
    assert (turn.prompt_tokens, turn.completion_tokens) == (0, 0)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}, "none", [], {"prompt_tokens": 10**400}]
)
async def test_usage_without_numbers_counts_as_nothing(server: ChatServer, usage: Any) -> None:
    server.say(changed(usage=usage))
    turn = await client(server).generate(request())
    assert (turn.prompt_tokens, turn.completion_tokens) == (0, 0)


async def test_content_as_a_list_of_parts_is_text_with_its_thoughts(server: ChatServer) -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thought, {"type": "text", "text": "ye"}, {"type": "text", "text": "s"}]
    server.say(changed(**said(parts)), stream(*(delta(content=[part]) for part in parts), delta(finish="stop")))
    assert (await client(server).generate(request())).text == "<think>hm</think>yes"
    turn, deltas = await heard(client(server), request())
    assert (turn.text, deltas) == ("<think>hm</think>yes", ["<think>hm", "</think>ye", "s"])


@pytest.mark.parametrize(
    ("finish", "read"),
    [
        ("SAFETY", "abort"),
        ("MAX_TOKENS", "length"),
        ("model_length", "length"),
        ("end_turn", "stop"),
        (None, "stop"),
        (3, "stop"),
    ],
)
async def test_other_words_for_the_end_of_a_turn(server: ChatServer, finish: Any, read: str) -> None:
    server.say(changed(**said("half", finish)))
    turn = await client(server).generate(request())
    assert (turn.text, turn.finish_reason) == ("half", read)


@st.composite
def streamed_calls(draw: st.DrawFn) -> tuple[list[list[dict[str, Any]]], list[tuple[str, dict[str, Any]]]]:
    """Calls, and the pieces in which one of the many kinds of servers streams them."""
    texts = st.text(alphabet='ab{}"\\ü', max_size=6)
    wanted = draw(st.lists(st.tuples(st.sampled_from(["look", "see"]), st.dictionaries(texts, texts)), max_size=4))
    counted = draw(st.sampled_from(["index", "always 0", "none"]))
    named = draw(st.booleans())  # with an id
    at_once = draw(st.booleans()) or (counted != "index" and not named)
    pieces: list[list[dict[str, Any]]] = []
    for number, (name, arguments) in enumerate(wanted):
        places = {"index": {"index": number}, "always 0": {"index": 0}, "none": {}}[counted]
        ids = {"id": f"id{number}"} if named else {}
        text = json.dumps(arguments)
        cut = len(text) if at_once else draw(st.integers(0, len(text)))
        pieces.append([piece(name, text[:cut], **places, **ids)])
        if cut < len(text):
            again = name if draw(st.booleans()) else None
            pieces.append([piece(again, text[cut:], **places, **(ids if draw(st.booleans()) else {}))])
    if at_once and draw(st.booleans()):
        pieces = [[call for each in pieces for call in each]]
    return pieces, wanted


@given(streamed_calls())
def test_calls_come_back_however_a_server_cuts_and_counts_them(
    made: tuple[list[list[dict[str, Any]]], list[tuple[str, dict[str, Any]]]],
) -> None:
    pieces, wanted = made
    reply = Reply()
    for calls in pieces:
        reply.read_chunk(ChatCompletionChunk.construct(choices=[delta(tool_calls=calls)]))
    read = reply.generation().tool_calls or ()
    assert [(call.name, call.arguments) for call in read] == wanted
    assert len({call.id for call in read}) == len(read)


odd = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 600) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "x"]), inner),
    max_leaves=6,
)


def or_odd(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, odd)


some_call = st.fixed_dictionaries(
    {},
    optional={
        "id": or_odd(st.sampled_from(["a", ""])),
        "index": or_odd(st.integers(0, 1)),
        "type": or_odd(st.just("function")),
        "function": or_odd(
            st.fixed_dictionaries({}, optional={"name": or_odd(st.just("look")), "arguments": or_odd(st.just("{}"))})
        ),
    },
)
some_message = st.fixed_dictionaries(
    {},
    optional={
        "content": or_odd(st.text(max_size=5)),
        "reasoning_content": odd,
        "refusal": odd,
        "tool_calls": or_odd(st.lists(or_odd(some_call), max_size=3)),
    },
)
some_choice = st.fixed_dictionaries(
    {},
    optional={
        "message": or_odd(some_message),
        "delta": or_odd(some_message),
        "finish_reason": or_odd(st.sampled_from(["stop", "error", "length"])),
        "error": odd,
        "logprobs": odd,
    },
)
some_answer = st.fixed_dictionaries(
    {},
    optional={
        "choices": or_odd(st.lists(or_odd(some_choice), max_size=2)),
        "usage": or_odd(st.fixed_dictionaries({}, optional={"prompt_tokens": odd, "completion_tokens": odd})),
        "error": odd,
        "object": or_odd(st.just("error")),
        "code": odd,
    },
)


class Scripted(ClientBackend):
    """The client with a server that is in this process."""

    def __init__(self, answers: list[dict[str, Any]]) -> None:
        super().__init__("m", ClientConfig(base_url="http://h/v1", max_retries=0))
        self.answers = answers

    def _connect(self) -> Any:
        return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=self._create)))

    async def _create(self, **body: Any) -> Any:
        return self._stream() if body.get("stream") else ChatCompletion.construct(**self.answers[0])

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[Any]:
        async def pieces() -> AsyncIterator[Any]:
            for piece in self.answers:
                yield ChatCompletionChunk.construct(**piece)

        yield pieces()


@pytest.mark.slow
@given(st.lists(some_answer, min_size=1, max_size=4), st.booleans())
def test_no_json_of_a_server_is_too_odd_for_a_turn_or_a_failed_request(
    answers: list[dict[str, Any]], streamed: bool
) -> None:
    async def ask() -> None:
        backend = Scripted(answers)
        turn = await (heard(backend, request(tools=[TOOL])) if streamed else backend.generate(request(tools=[TOOL])))
        turn = turn[0] if isinstance(turn, tuple) else turn
        assert isinstance(turn.text, str)
        assert turn.prompt_tokens + turn.completion_tokens >= 0
        ids = [call.id for call in turn.tool_calls or ()]
        assert len(set(ids)) == len(ids)

    with suppress(BackendError):
        asyncio.run(ask())
