"""Schemas of foreign tools in the form that a model sees: bounded, without references, with valid names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry

from agentfly.errors import ToolError, printable, shortened
from agentfly.tools.decorator import ArgumentCheck

_MOST_NODES, _MOST_DEPTH = 1000, 12
# All of it stands in every prompt.
_MOST_CHARACTERS = 20_000
_DESCRIPTION, _WORDS, _NAME = 2000, 400, 64
_MOST_WRONG = 8
# All that is kept of a schema beside its structure. Patterns are left out: one that a server chose can take for ever.
_PLAIN = frozenset(
    ("type", "enum", "const", "default", "format", "contentEncoding", "contentMediaType", "multipleOf", "uniqueItems")
) | frozenset(
    ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems")
)
_LISTS, _SINGLE = ("anyOf", "oneOf", "allOf", "prefixItems"), ("items", "additionalProperties", "not")
_IMAGE = {
    "type": "string",
    "description": "id of an image of this conversation, such as img_1",
}


class UnusableSchema(ValueError):
    """A schema that no model can be shown; the message says why."""


def tool_names(given: Iterable[str], prefix: str) -> Iterator[str]:
    """Yield a valid name for each tool, unique among them.

    Args:
        given: names as the server lists them.
        prefix: put before each.
    """
    taken: set[str] = set()
    for name in given:
        valid = f"{prefix}{re.sub(r'[^A-Za-z0-9_-]', '_', name)}"[:_NAME] or "tool"
        unique, number = valid, 1
        while unique in taken:
            number += 1
            unique = f"{valid[: _NAME - len(str(number)) - 1]}_{number}"
        taken.add(unique)
        yield unique


def described(text: str | None) -> str:
    """Return the description of a tool, on as many lines as it has, without control characters and cut to a length."""
    return shortened(printable(text or "").strip(), _DESCRIPTION)


def sound_schema(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of the arguments of a tool, in the form of `parameters_schema`.

    Args:
        raw: as the server lists it.

    Raises:
        UnusableSchema: it is too large, too deep, refers to itself or to other documents, or is none of an object.
    """
    schema = _Reader(raw).read(raw)
    if schema.get("type", "object") != "object":
        raise UnusableSchema("its arguments are not an object")
    properties = schema.get("properties", {})
    required = [name for name in schema.get("required", []) if name in properties]
    out: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if "additionalProperties" in schema:
        out["additionalProperties"] = schema["additionalProperties"]
    if len(json.dumps(out)) > _MOST_CHARACTERS:
        raise UnusableSchema(f"its schema has more than {_MOST_CHARACTERS} characters")
    return out


class _Reader:
    """Read one schema, with a count of its parts: references can make a small one endless."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root, self._nodes = root, 0

    def read(self, node: object, depth: int = 0, inside: tuple[str, ...] = ()) -> Any:
        self._nodes += 1
        if self._nodes > _MOST_NODES or depth > _MOST_DEPTH:
            raise UnusableSchema(f"its schema has more than {_MOST_NODES} parts or {_MOST_DEPTH} levels")
        if isinstance(node, bool):
            return node
        if not isinstance(node, Mapping):
            raise UnusableSchema(f"part of its schema is {type(node).__name__}")
        if isinstance(reference := node.get("$ref"), str):
            if reference in inside:
                raise UnusableSchema(f"its schema refers to itself ({shortened(reference)})")
            target = {**self._find(reference), **{key: value for key, value in node.items() if key != "$ref"}}
            return self.read(target, depth, (*inside, reference))
        out: dict[str, Any] = {key: _plain(node[key]) for key in node if key in _PLAIN}
        if isinstance(words := node.get("description"), str):
            out["description"] = shortened(printable(words).strip(), _WORDS)
        if isinstance(fields := node.get("properties"), Mapping):
            out["properties"] = {str(name): self.read(field, depth + 1, inside) for name, field in fields.items()}
        if isinstance(names := node.get("required"), list):
            out["required"] = [name for name in names if isinstance(name, str)]
        for key in _SINGLE:
            if key in node:
                out[key] = self.read(node[key], depth + 1, inside)
        for key in _LISTS:
            if isinstance(parts := node.get(key), list):
                out[key] = [self.read(part, depth + 1, inside) for part in parts]
        return out

    def _find(self, reference: str) -> Mapping[str, Any]:
        """Return the part of the schema that a reference names."""
        found: object = self._root
        head, *steps = reference.split("/")
        for step in steps:
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        if head != "#" or not isinstance(found, Mapping):
            raise UnusableSchema(f"its schema refers to something else ({shortened(reference)})")
        return found


def _plain(value: object) -> object:
    """Return a value of a keyword, with a bound on its size."""
    if len(repr(value)) > 4 * _DESCRIPTION:
        raise UnusableSchema("a list of values in its schema is too long")
    return value


def image_arguments(schema: Mapping[str, Any], given: Iterable[str] = ()) -> frozenset[str]:
    """Return the arguments that are images: those given by name, and those whose schema says so.

    Args:
        schema: of `sound_schema`.
        given: names of arguments.

    Raises:
        UnusableSchema: there is no argument of a name.
    """
    properties: Mapping[str, Any] = schema["properties"]
    for name in given:
        if name not in properties:
            raise UnusableSchema(f"it has no argument {name!r}; it has {', '.join(properties) or 'none'}")
    return frozenset(given) | {name for name, field in properties.items() if _holds_image(field)}


def _holds_image(field: object) -> bool:
    if not isinstance(field, Mapping):
        return False
    kind = str(field.get("contentMediaType", ""))
    encoded = field.get("contentEncoding") == "base64" and (kind.startswith("image/") or not kind)
    return encoded or _holds_image(field.get("items"))


def with_image_ids(schema: Mapping[str, Any], images: Iterable[str]) -> dict[str, Any]:
    """Return a schema in which arguments that are images take the ids of images; a list stays a list.

    Args:
        schema: of `sound_schema`.
        images: names of these arguments.
    """
    properties = dict(schema["properties"])
    for name in images:
        field = properties[name]
        words = field.get("description", "") if isinstance(field, Mapping) else ""
        one = {**_IMAGE, "description": f"{words.rstrip('.')}: {_IMAGE['description']}"} if words else dict(_IMAGE)
        many = isinstance(field, Mapping) and field.get("type") == "array"
        properties[name] = {"type": "array", "items": one} if many else one
    return {**schema, "properties": properties}


def argument_check(schema: Mapping[str, Any]) -> ArgumentCheck:
    """Return a check of arguments by a schema, which names what is wrong.

    Args:
        schema: of `sound_schema`.

    Raises:
        UnusableSchema: it is no JSON schema.
    """
    try:
        Draft202012Validator.check_schema(schema)
    except Exception as fault:  # of jsonschema and of its metaschemas
        raise UnusableSchema("its schema is no JSON schema") from fault
    validator = Draft202012Validator(schema, registry=Registry())
    return partial(_check, validator, tuple(schema["properties"]))


def _check(
    validator: Draft202012Validator, names: tuple[str, ...], tool: str, arguments: Mapping[str, object]
) -> dict[str, object]:
    # Servers are of two minds about null; for an argument that is optional it can only mean "not given".
    optional = set(names).difference(validator.schema["required"])  # type: ignore[index]
    found = {name: value for name, value in arguments.items() if not (value is None and name in optional)}
    wrong = [_said(fault) for fault, _ in zip(validator.iter_errors(found), range(_MOST_WRONG), strict=False)]
    wrong += [f"unknown {shortened(name)}" for name in found if names and name not in names][:_MOST_WRONG]
    if wrong:
        raise ToolError(f"{tool}: {'; '.join(dict.fromkeys(wrong))}. Arguments: {', '.join(names)}")
    return found


def _said(fault: ValidationError) -> str:
    place = ".".join(str(step) for step in fault.absolute_path)
    return shortened(f"{place}: {fault.message}" if place else fault.message, 160)
