"""From a typed function to the JSON schema of a tool, and to the check of the arguments that a model sends.

The signature is the single source: hints give types and ranges, a Google-style docstring gives the words, defaults make
arguments optional. The schema is kept short, because every token of it is in every prompt: no titles, no null branches
of optional arguments, no references.
"""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from agentfly.errors import ConfigError, ToolError

_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns|Yields|Raises|Example|Examples|Note|Notes|Attributes):\s*$")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")
# numbers sent for text are taken; NaN and infinity are no settings.
_CONFIG = ConfigDict(extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False, arbitrary_types_allowed=False)


def arguments_model(function: Callable[..., Any], name: str) -> type[BaseModel]:
    """A pydantic model with one field for each argument of `function` (`self` and `cls` left out).

    Raises:
        ConfigError: an argument has no hint, a hint has no JSON form, or the signature has `*args` or `**kwargs`.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as fault:
        raise ConfigError(f"tool {name!r}: the hint {fault.name!r} must be defined before the tool is") from fault
    words = docstring(function)[1]
    fields: dict[str, Any] = {}
    for parameter in _parameters(function):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"tool {name!r}: {parameter} cannot be described to a model; name each argument")
        if parameter.name not in hints:
            raise ConfigError(f"tool {name!r}: argument {parameter.name!r} needs a type hint")
        default = ... if parameter.default is parameter.empty else parameter.default
        said = {"description": words[parameter.name]} if parameter.name in words else {}
        # An alias, because pydantic refuses some field names that are fine as arguments ("json", "_x").
        field = Field(default, alias=parameter.name, **said)  # type: ignore[call-overload]
        fields[f"argument_{parameter.name}"] = (hints[parameter.name], field)
    try:
        return create_model(name, __config__=_CONFIG, **fields)
    except Exception as fault:  # pydantic has no common error for hints it cannot take
        raise ConfigError(f"tool {name!r}: a hint has no JSON form: {fault}") from fault


def _parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    for index, parameter in enumerate(inspect.signature(function).parameters.values()):
        if not (index == 0 and parameter.name in ("self", "cls")):
            yield parameter


def parameters_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of the arguments, in the form of OpenAI's `function.parameters`."""
    raw = model.model_json_schema(by_alias=True)
    definitions = raw.pop("$defs", {})
    schema = _tidy(raw, definitions, ())
    return {"type": "object", "properties": schema.get("properties", {}), "required": schema.get("required", [])}


def _tidy(node: Any, definitions: Mapping[str, Any], inside: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_tidy(item, definitions, inside) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = node["$ref"].rpartition("/")[2]
        if target in inside:
            raise ConfigError(f"{target} refers to itself: a tool's arguments must be finite")
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return _tidy({**definitions[target], **rest}, definitions, (*inside, target))
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            out[key] = {name: _tidy(field, definitions, inside) for name, field in value.items()}
        elif key in ("enum", "const", "default", "required", "examples"):
            out[key] = value
        elif key not in ("title", "additionalProperties") or isinstance(value, dict):
            out[key] = _tidy(value, definitions, inside)
    return _without_null(out)


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
    """An optional argument is one that may be left out; that it also takes null is not worth the tokens."""
    if node.get("default", ...) is None:
        node.pop("default")
    choices = node.get("anyOf")
    if choices is None:
        return node
    kept = [choice for choice in choices if choice != {"type": "null"}]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {**kept[0], **rest} if len(kept) == 1 else {"anyOf": kept, **rest}


def checked_arguments(model: type[BaseModel], tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the function takes them: checked, and converted where that is safe ("3" -> 3).

    Raises:
        ToolError: unknown, missing or wrong arguments; the message names each, and the valid names.
    """
    try:
        valid = model.model_validate(dict(arguments))
    except ValidationError as fault:
        raise ToolError(_words(model, tool, fault)) from fault
    given = valid.model_fields_set
    names = ((field, info.alias or field) for field, info in type(valid).model_fields.items())
    return {alias: getattr(valid, field) for field, alias in names if field in given}


def _words(model: type[BaseModel], tool: str, fault: ValidationError) -> str:
    kinds: dict[str, list[str]] = {}
    for error in fault.errors(include_url=False, include_context=True):
        where = ".".join(str(step) for step in error["loc"])
        if error["type"] == "missing":
            kinds.setdefault("missing", []).append(where)
        elif error["type"] == "extra_forbidden":
            kinds.setdefault("unknown", []).append(where + _nearest(where, model))
        else:
            kinds.setdefault("", []).append(f"{where} {_expected(error)}, got {_shown(error['input'])}")
    parts = [f"{kind} {', '.join(names)}".strip() for kind, names in kinds.items()]
    text = f"{tool}: {'; '.join(dict.fromkeys(parts))}"
    if kinds.keys() & {"missing", "unknown"}:
        text += f". Arguments: {', '.join(info.alias or name for name, info in model.model_fields.items())}"
    return text


def _nearest(name: str, model: type[BaseModel]) -> str:
    names = (info.alias or field for field, info in model.model_fields.items())
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


_RANGES = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
_RANGE_KEYS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}


def _expected(error: Mapping[str, Any]) -> str:
    kind = error["type"]
    if kind in _RANGES:
        limit = error["ctx"][_RANGE_KEYS[kind]]
        return f"must be {_RANGES[kind]} {limit:g}" if isinstance(limit, float) else f"must be {_RANGES[kind]} {limit}"
    message = str(error["msg"])
    return message.replace("Input should be", "must be").replace("Value error, ", "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What a Google-style docstring says: the text before its first section, and the words for each argument."""
    text = inspect.getdoc(function) or ""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if _SECTION.match(line)]
    description = "\n".join(lines[: starts[0] if starts else len(lines)]).strip()
    for start, end in pairwise([*starts, len(lines)]):
        if lines[start].startswith(("Args", "Arguments", "Parameters")):
            return _one_line(description), _argument_words(lines[start + 1 : end])
    return _one_line(description), {}


def _argument_words(lines: list[str]) -> dict[str, str]:
    words: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        match = _ARGUMENT.match(line)
        if match:
            name, words[match[1]] = match[1], match[2]
        elif name and line.strip():
            words[name] += f" {line.strip()}"
    return {key: _one_line(value) for key, value in words.items()}


def _one_line(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
