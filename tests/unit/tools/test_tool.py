"""From a typed function to a tool: the schema that the model reads and the arguments that the function gets."""

from __future__ import annotations

import threading
from enum import Enum
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from agentfly.errors import ConfigError, ToolError
from agentfly.tools import Tool, ToolResult, Toolset, tool


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Box(BaseModel):
    x: int
    title: str = "box"


class Node(BaseModel):
    child: Node | None = None


@tool
def draw(
    text: str,
    count: int,
    scale: float = 1.5,
    on: bool = False,
    maybe: int | None = None,
    either: int | str = 3,
    words: list[str] | None = None,
    table: dict[str, float] | None = None,
    kind: Literal["a", "b"] = "a",
    colour: Colour = Colour.RED,
    box: Box | None = None,
    json: Annotated[int, Field(ge=0, le=9, description="its own words")] = 1,
) -> dict[str, Any]:
    """Draw something.

    It spans
    two lines.

    Args:
        text: what to draw,
            in two lines.
        count (int): how many: a number.

    Returns:
        What was given.
    """
    return {"count": count, "kind": kind, "colour": repr(colour), "box": repr(box), "json": json, "maybe": maybe}


def one(function: Any) -> Tool:
    return next(iter(Toolset([function])))


def properties(function: Any) -> dict[str, Any]:
    found: Any = one(function).parameters["properties"]
    return dict(found)


def test_types_defaults_and_words_are_in_the_schema() -> None:
    assert properties(draw) == {
        "text": {"type": "string", "description": "what to draw, in two lines."},
        "count": {"type": "integer", "description": "how many: a number."},
        "scale": {"type": "number", "default": 1.5},
        "on": {"type": "boolean", "default": False},
        "maybe": {"type": "integer"},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}], "default": 3},
        "words": {"type": "array", "items": {"type": "string"}},
        "table": {"type": "object", "additionalProperties": {"type": "number"}},
        "kind": {"type": "string", "enum": ["a", "b"], "default": "a"},
        "colour": {"type": "string", "enum": ["red", "blue"], "default": "red"},
        "box": {
            "type": "object",
            "properties": {"x": {"type": "integer"}, "title": {"type": "string", "default": "box"}},
            "required": ["x"],
        },
        "json": {"type": "integer", "minimum": 0, "maximum": 9, "default": 1, "description": "its own words"},
    }
    assert one(draw).parameters["required"] == ["text", "count"]
    jsonschema.Draft202012Validator.check_schema(dict(one(draw).parameters))


def test_the_description_ends_where_the_sections_begin() -> None:
    assert one(draw).description == "Draw something.\n\nIt spans two lines."


def test_the_function_stays_a_function() -> None:
    assert draw("x", 2)["count"] == 2


def test_name_and_description_can_be_given() -> None:
    @tool(name="other", description="Words.")
    def function() -> None: ...

    schema = Toolset([function]).schemas()
    assert schema == [
        {
            "type": "function",
            "function": {
                "name": "other",
                "description": "Words.",
                "parameters": {"type": "object", "properties": {}, "required": []},
            },
        }
    ]


def test_a_tool_looks_only_if_it_says_so_and_the_model_is_not_told() -> None:
    def peek() -> str:
        return "seen"

    looking = one(tool(looks=True)(peek))
    assert (looking.looks, one(draw).looks) == (True, False)
    assert looking.schema() == one(tool(peek)).schema()


async def test_arguments_are_converted_where_that_is_safe() -> None:
    given = {"text": 5, "count": "3", "maybe": 2.0, "kind": "b", "colour": "blue", "box": {"x": "1"}, "json": 9}
    result = await one(draw)(given)
    assert result.data == {
        "count": 3,
        "kind": "b",
        "colour": "<Colour.BLUE: 'blue'>",
        "box": "Box(x=1, title='box')",
        "json": 9,
        "maybe": 2,
    }


async def test_what_is_left_out_keeps_its_default_and_null_is_taken_for_optional() -> None:
    result = await one(draw)({"text": "x", "count": 1, "maybe": None})
    assert (result.data["json"], result.data["colour"], result.data["maybe"]) == (1, "<Colour.RED: 'red'>", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": "x"}, "draw: missing count. Arguments: text, count, scale"),
        ({"text": "x", "count": 1, "size": 2}, "draw: unknown size. Arguments: text, count, scale"),
        ({"text": "x", "count": 1, "argument_json": 2}, "unknown argument_json"),
        ({"text": "x", "count": "many"}, r"draw: count must be a valid integer.*, got 'many'$"),
        ({"text": "x", "count": 1, "json": 10}, "draw: json must be <= 9, got 10$"),
        ({"text": "x", "count": 1, "scale": float("nan")}, "scale must be a finite number, got nan"),
        ({"text": "x", "count": 1, "kind": "c"}, "kind must be 'a' or 'b', got 'c'"),
        ({"text": "x", "count": 1, "words": "y" * 99}, r"words must be a valid list, got 'yyy[y]+\.\.\.$"),
        ({"text": "x", "count": None}, "count must be"),
    ],
)
async def test_wrong_arguments_are_told_to_the_model(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolError, match=words):
        await one(draw)(arguments)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("words", "words"),
        (3, "3"),
        (True, "true"),
        (None, "done"),
        (["é"], '["é"]'),
        ({"a": 1}, '{"a": 1}'),
        (Box(x=1), '{"x": 1, "title": "box"}'),
    ],
)
async def test_plain_values_become_text(value: Any, text: str) -> None:
    @tool
    def give() -> Any:
        return value

    result = await one(give)({})
    assert result.text == text
    assert result.data == ({"a": 1} if value == {"a": 1} else result.data)


async def test_a_result_is_passed_on_as_it_is() -> None:
    mine = ToolResult("x", ("img_000000000000",), final=True)

    @tool
    async def give() -> ToolResult:
        return mine

    assert await one(give)({}) is mine


async def test_a_value_that_no_model_can_read_is_a_bug_of_the_tool() -> None:
    @tool
    def give() -> Any:
        return object()

    with pytest.raises(TypeError, match=r"'give' \(.*\) returned object"):
        await one(give)({})


async def test_a_blocking_tool_runs_beside_the_event_loop() -> None:
    @tool
    def where() -> str:
        return threading.current_thread().name

    assert (await one(where)({})).text != threading.current_thread().name


def test_what_cannot_be_described_is_refused_at_definition() -> None:
    def unhinted(a): ...  # type: ignore[no-untyped-def]

    def star(*rest: int) -> None: ...

    def opaque(a: threading.Thread) -> None: ...

    def unknown(a: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821

    def recursive(a: Node) -> None: ...

    expected = [
        (unhinted, "'a' needs a type hint"),
        (star, "name each argument"),
        (opaque, "no JSON form"),
        (unknown, "'Missing' must be defined before"),
        (recursive, "Node refers to itself"),
    ]
    for function, words in expected:
        with pytest.raises(ConfigError, match=words):
            tool(function)
    with pytest.raises(ConfigError, match="letters, digits"):
        tool(name="a tool")(lambda: None)
