"""What models send for arguments: nothing in other words, and JSON texts where the schema has lists and objects."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model
from typing_extensions import TypedDict

from agentfly.errors import ToolError
from agentfly.tools import Tool, Toolset, tool
from agentfly.tools.arguments import checked_arguments
from agentfly.tools.parsing import native_call
from tests.fuzz.texts import texts


class Box(BaseModel):
    x: int


@dataclass
class Point:
    y: int


class Row(TypedDict):
    z: int


class Kind(Enum):
    NONE = "None"
    SOFT = "soft"


SEEN: dict[str, Any] = {}


@tool
def use(
    numbers: list[int] | None = None,
    table: dict[str, int] | None = None,
    box: Box | None = None,
    pair: tuple[int, int] = (0, 0),
    unique: set[int] = frozenset(),  # type: ignore[assignment]
    fixed: frozenset[int] = frozenset(),
    sequence: Sequence[int] = (),
    mapping: Mapping[str, int] | None = None,
    point: Point | None = None,
    row: Row | None = None,
    either: list[Box] | dict[str, Box] | None = None,
    boxes: list[Box] | None = None,
    text_or_list: str | list[int] = "s",
    text: str = "x",
    kind: Kind = Kind.SOFT,
    mode: Literal["None", "soft"] = "soft",
    count: int | None = 5,
    anything: Any = None,
) -> str:
    """Use."""
    SEEN.clear()
    SEEN.update(locals())
    return "used"


@tool
def need(numbers: list[int], text: str, maybe: int | None) -> str:
    """Need."""
    SEEN.clear()
    SEEN.update(locals())
    return "used"


def one(function: Any) -> Tool:
    return next(iter(Toolset([function])))


async def given_to(function: Any, **arguments: Any) -> dict[str, Any]:
    await one(function)(arguments)
    return {name: SEEN[name] for name in arguments}


@pytest.mark.parametrize(
    ("name", "sent", "meant"),
    [
        ("numbers", "[1, 2]", [1, 2]),
        ("numbers", " [1, 2,]\n", [1, 2]),
        ("numbers", '["1"]', [1]),
        ("table", '{"a": 1}', {"a": 1}),
        ("table", "{'a': 1}", {"a": 1}),
        ("box", '{"x": "3"}', Box(x=3)),
        ("pair", "[1, 2]", (1, 2)),
        ("unique", "[1, 1]", {1}),
        ("fixed", "[1]", frozenset({1})),
        ("sequence", "[1]", [1]),
        ("mapping", '{"a": 1}', {"a": 1}),
        ("point", '{"y": 1}', Point(1)),
        ("row", '{"z": 1}', {"z": 1}),
        ("either", '[{"x": 1}]', [Box(x=1)]),
        ("either", '{"a": {"x": 1}}', {"a": Box(x=1)}),
        ("boxes", '[{"x": 1}]', [Box(x=1)]),
        ("boxes", ['{"x": 1}', {"x": 2}], [Box(x=1), Box(x=2)]),
        # What may be a text is one.
        ("text_or_list", "[1]", "[1]"),
        ("text", "[1]", "[1]"),
        ("anything", "[1]", "[1]"),
    ],
)
async def test_a_json_text_is_read_where_the_schema_has_a_list_or_an_object(name: str, sent: Any, meant: Any) -> None:
    assert await given_to(use, **{name: sent}) == {name: meant}


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ("abc", "numbers must be a valid list, got 'abc'$"),
        ("[1, 2", r"numbers must be a valid list, got '\[1, 2'$"),
        ('{"x": 1}', "numbers must be a valid list, got "),
        ('["x"]', r"numbers.0 must be a valid integer.*, got 'x'$"),
        ("[" * 60 + "]" * 60, "numbers must be a valid list"),
        ("[1_000]", "numbers must be a valid list"),
    ],
)
async def test_a_text_that_is_no_such_json_is_told_to_the_model(sent: str, words: str) -> None:
    with pytest.raises(ToolError, match=words):
        await one(use)({"numbers": sent})


async def test_the_arguments_of_a_call_stay_as_they_were_sent() -> None:
    sent = {"numbers": "[1]", "count": None, "boxes": ['{"x": 1}'], "either": {"a": '{"x": 1}'}}
    before = copy.deepcopy(sent)
    await one(use)(sent)
    assert (SEEN["boxes"], SEEN["either"]) == ([Box(x=1)], {"a": Box(x=1)})
    assert sent == before


@pytest.mark.parametrize("word", [None, "null", "None"])
async def test_an_optional_argument_that_is_null_is_left_out(word: str | None) -> None:
    await one(use)(dict.fromkeys(("numbers", "box", "boxes", "pair"), word))
    assert [SEEN[name] for name in ("numbers", "box", "boxes", "pair")] == [None, None, None, (0, 0)]
    await one(use)({"text": None, "text_or_list": None})
    assert (SEEN["text"], SEEN["text_or_list"]) == ("x", "s")


@tool
def search(
    query: str,
    limit: int | None = 10,
    text: str = "dflt",
    short: Annotated[str, Field(max_length=9)] | None = "s",
    order: Literal["up", None] = "up",
    extra: Any = 3,
    negative: str | None = None,
) -> str:
    """Search."""
    SEEN.clear()
    SEEN.update(locals())
    return "searched"


@pytest.mark.parametrize("word", ["null", "None"])
async def test_a_null_or_a_text_that_the_hint_admits_is_not_replaced_by_the_default(word: str) -> None:
    nulls = {"limit": None, "short": None, "order": None, "extra": None}
    assert await given_to(search, query=word, **nulls) == {"query": word, **nulls}
    words = {"text": word, "short": word, "extra": word}
    assert await given_to(search, query="a", **words) == words | {"query": "a"}
    # A model that writes the word for an optional text means none.
    assert await given_to(search, query="a", negative=word) == {"query": "a", "negative": None}
    # No text is admitted here, so that the word is the null that it spells.
    await one(search)({"query": "a", "limit": word, "order": word})
    assert (SEEN["limit"], SEEN["order"]) == (None, None)


async def test_a_word_that_the_schema_lists_is_a_value() -> None:
    assert await given_to(use, kind="None", mode="None") == {"kind": Kind.NONE, "mode": "None"}
    await one(use)({"kind": None, "mode": "null"})
    assert (SEEN["kind"], SEEN["mode"]) == (Kind.SOFT, "soft")


async def test_a_needed_argument_is_not_left_out() -> None:
    found = await given_to(need, numbers=[1], text="null", maybe=None)
    assert found == {"numbers": [1], "text": "null", "maybe": None}
    with pytest.raises(ToolError, match="numbers must be a valid list, got None"):
        await one(need)({"numbers": None, "text": "a", "maybe": 1})


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["numbers", "table", "box", "either", "boxes", "row", "pair"]), texts(300) | st.just("[[1]]"))
async def test_any_text_is_an_argument_or_a_message_for_the_model(name: str, text: str) -> None:
    # Any other error is a bug of the tool, and ends the chain.
    with suppress(ToolError):
        await one(use)({name: text})


@pytest.mark.parametrize(
    "sent",
    [
        '{"x": 1}',
        {"x": 1},
        json.dumps('{"x": 1}'),
        json.dumps(" {'x': 1,} "),
        ' {"x": 1}\n',
    ],
)
def test_native_arguments_are_unwrapped(sent: object) -> None:
    call = native_call("a", "use", sent)
    assert (call.arguments, call.error) == ({"x": 1}, None)


@pytest.mark.parametrize("sent", [None, "", " \n", "null", '"null"', '""', '" "', {}, "{}", '"{}"'])
def test_native_arguments_that_are_nothing_are_none(sent: object) -> None:
    call = native_call("a", "use", sent)
    assert (call.arguments, call.error) == ({}, None)


@pytest.mark.parametrize(
    "sent", [json.dumps(json.dumps(json.dumps({"x": 1}))), "[1]", '"[1]"', "3", "true", '"x', [1], 3, True, b"{}"]
)
def test_native_arguments_that_are_something_else_are_an_error(sent: object) -> None:
    call = native_call("a", "use", sent)
    assert call.arguments == {}
    assert "Write one JSON object of names and values" in str(call.error)


@pytest.mark.parametrize("sent", [{"x": float("nan")}, {"x": "\ud800"}, {"x": object()}, {"x": {1: {2, 3}}}])
def test_native_arguments_that_json_cannot_hold_are_an_error(sent: object) -> None:
    assert native_call("a", "use", sent).error is not None


@pytest.mark.parametrize("written", ["null", '""', '"null"', "{}", '"{}"'])
def test_arguments_in_a_text_that_are_nothing_are_none(written: str) -> None:
    from agentfly.tools import parse_tool_calls

    (call,) = parse_tool_calls(f'<tool_call>{{"name": "use", "arguments": {written}}}</tool_call>').calls
    assert (call.name, call.arguments, call.error) == ("use", {}, None)


def test_a_call_with_very_many_unknown_arguments_is_refused_without_a_search_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched: list[str] = []

    def search(name: str, *_: object, **__: object) -> list[str]:
        searched.append(name)
        return []

    monkeypatch.setattr("difflib.get_close_matches", search)
    model = create_model("Arguments", __config__={"extra": "forbid"})
    with pytest.raises(ToolError, match=r"unknown k0, .*, 984 more"):
        checked_arguments(model, "f", {f"k{number}": 1 for number in range(1000)})
    assert len(searched) == 16
