"""Schemas of foreign tools: bounded, without references and patterns, with valid names, and checked like our own."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from agentfly.errors import ToolError
from agentfly.tools.mcp.schemas import (
    UnusableSchema,
    argument_check,
    described,
    image_arguments,
    sound_schema,
    tool_names,
    with_image_ids,
)


def thing(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_references_are_resolved_and_the_rest_is_left_out() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Arguments",
        "type": "object",
        "properties": {
            "box": {"$ref": "#/$defs/Box", "description": "where"},
            "name": {"type": "string", "pattern": "(a+)+$"},
        },
        "required": ["box", "gone"],
        "$defs": {"Box": {"title": "Box", "type": "array", "items": {"type": "integer"}, "minItems": 4}},
        "x-anything": 1,
    }
    box = {"type": "array", "items": {"type": "integer"}, "minItems": 4, "description": "where"}
    assert sound_schema(schema) == {
        "type": "object",
        "properties": {"box": box, "name": {"type": "string"}},
        "required": ["box"],
    }
    assert sound_schema({}) == {"type": "object", "properties": {}, "required": []}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (thing(a=nested(40)), "levels"),
        (thing(**{f"a{i}": {} for i in range(2000)}), "parts"),
        ({**thing(a={"$ref": "#/$defs/A"}), "$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}]}}}, "refers to itself"),
        (thing(a={"$ref": "https://evil.example/schema.json"}), "refers to something else"),
        (thing(a={"$ref": "#/$defs/none"}), "refers to something else"),
        (thing(a={"enum": ["x" * 100] * 1000}), "too long"),
        (thing(**{f"a{i}": {"description": "x" * 400} for i in range(60)}), "20000 characters"),
        (thing(a=3), "part of its schema is int"),
        ({"type": "array"}, "not an object"),
    ],
)
def test_a_schema_that_no_model_can_be_shown_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(UnusableSchema, match=said):
        sound_schema(schema)


def test_references_that_double_each_time_end_at_once() -> None:
    definitions = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 8} for i in range(11)} | {"d11": {}}
    began = time.monotonic()
    with pytest.raises(UnusableSchema):
        sound_schema({**thing(a={"$ref": "#/$defs/d0"}), "$defs": definitions})
    assert time.monotonic() - began < 1


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(UnusableSchema, match="no JSON schema"):
        argument_check(sound_schema(thing(a={"type": "strnig"})))


def test_names_are_valid_and_unique() -> None:
    given = ["draw", "draw.circle", "draw/circle", "", "ü", "x" * 100, "x" * 99]
    names = list(tool_names(given, "far_"))
    assert names[:5] == ["far_draw", "far_draw_circle", "far_draw_circle_2", "far_", "far__"]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) == 64
    assert list(tool_names([""], "")) == ["tool"]


def test_descriptions_are_cut_and_cannot_steer_a_terminal() -> None:
    assert described(None) == ""
    assert described(" a\x1b[2Jb ") == "a\ufffd[2Jb"
    assert len(described("x" * 10_000)) == 2000


def test_arguments_are_checked_and_the_message_names_what_is_wrong() -> None:
    schema = sound_schema({**thing(a={"type": "integer", "minimum": 1}, b={"type": "string"}), "required": ["a"]})
    check = argument_check(schema)
    assert check("t", {"a": 3, "b": None}) == {"a": 3}
    for arguments, said in (
        ({}, "t: 'a' is a required property. Arguments: a, b"),
        ({"a": 0}, "t: a: 0 is less than the minimum of 1. Arguments: a, b"),
        ({"a": "x" * 500}, "t: a: 'xxx"),
        ({"a": 1, "c": 2}, "t: unknown c. Arguments: a, b"),
    ):
        with pytest.raises(ToolError) as told:
            check("t", arguments)
        assert str(told.value).startswith(said)
        assert len(str(told.value)) < 250


def test_arguments_that_are_images_take_ids() -> None:
    encoded = {
        "type": "string",
        "contentEncoding": "base64",
        "contentMediaType": "image/png",
        "description": "to show.",
    }
    schema = sound_schema(
        thing(
            picture=encoded,
            several={"type": "array", "items": encoded},
            sound={"type": "string", "contentEncoding": "base64", "contentMediaType": "audio/wav"},
            other={"type": "string", "format": "uri", "maxLength": 9},
        )
    )
    images = image_arguments(schema, ["other"])
    assert images == {"picture", "several", "other"}
    shown = with_image_ids(schema, images)["properties"]
    assert shown["picture"] == {
        "type": "string",
        "description": "to show: id of an image of this conversation, such as img_1",
    }
    assert shown["several"]["items"]["type"] == "string"
    assert shown["other"]["type"] == "string"
    assert shown["sound"] == schema["properties"]["sound"]
    assert "contentEncoding" not in json.dumps([shown[name] for name in images])
    with pytest.raises(UnusableSchema, match="no argument 'image'"):
        image_arguments(schema, ["image"])
