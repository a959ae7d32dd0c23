"""The JSON schema of a typed function, and the check of the arguments that a model sends.

The signature is the single source: hints give types and ranges, a Google-style docstring gives the descriptions,
defaults make arguments optional. The schema is short, because every token of it is in every prompt: no titles, no null
branches of optional arguments, no references.
"""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from agentfly.errors import ConfigError, ToolError

_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns|Yields|Raises|Example|Examples|Note|Notes|Attributes):\s*$")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")
# A number in place of a text is accepted; NaN and infinity are not.
_CONFIG = ConfigDict(extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False, arbitrary_types_allowed=False)


def arguments_model(function: Callable[..., object], name: str) -> type[BaseModel]:
    """Return a pydantic model with one field for each argument of a function, without `self` and `cls`.

    Args:
        function: with type hints, and perhaps a Google-style docstring.
        name: of the tool, for messages.

    Raises:
        ConfigError: an argument has no hint, a hint has no JSON form, or the signature has `*args` or `**kwargs`.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as fault:
        raise ConfigError(f"tool {name!r}: the hint {fault.name!r} must be defined before the tool is") from fault
    words = docstring(function)[1]
    fields: dict[str, Any] = {}
    for index, parameter in enumerate(inspect.signature(function).parameters.values()):
        if index == 0 and parameter.name in ("self", "cls"):
            continue
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


def parameters_schema(model: type[BaseModel]) -> dict[str, object]:
    """Return the JSON schema of the arguments in the form of OpenAI's `function.parameters`."""
    raw = model.model_json_schema(by_alias=True)
    definitions = raw.pop("$defs", {})
    schema = _tidy(raw, definitions, ())
    return {"type": "object", "properties": schema.get("properties", {}), "required": schema.get("required", [])}


def _tidy(node: Any, definitions: Mapping[str, dict[str, object]], inside: tuple[str, ...]) -> Any:
    """Return a part of a schema without titles, null branches and references."""
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
    out: dict[str, object] = {}
    for key, value in node.items():
        if key == "properties":
            out[key] = {name: _tidy(field, definitions, inside) for name, field in value.items()}
        elif key in ("enum", "const", "default", "required", "examples"):
            out[key] = value
        elif key not in ("title", "additionalProperties") or isinstance(value, dict):
            out[key] = _tidy(value, definitions, inside)
    # An optional argument may be left out; saying that it also takes null is not worth the tokens.
    if out.get("default", ...) is None:
        out.pop("default")
    choices = out.pop("anyOf", None)
    if not isinstance(choices, list):
        return out
    kept = [choice for choice in choices if choice != {"type": "null"}]
    return {**kept[0], **out} if len(kept) == 1 else {"anyOf": kept, **out}


def checked_arguments(model: type[BaseModel], tool: str, arguments: Mapping[str, object]) -> dict[str, object]:
    """Check arguments and return them for the function, converted where that is safe ("3" -> 3).

    Args:
        model: pydantic model of the arguments.
        tool: name of the tool, for messages.
        arguments: as the model sent them.

    Raises:
        ToolError: unknown, missing or wrong arguments; the message names each, and the valid names.
    """
    try:
        valid = model.model_validate(dict(arguments))
    except ValidationError as fault:
        raise ToolError(_explain(model, tool, fault)) from fault
    given = valid.model_fields_set
    names = ((field, info.alias or field) for field, info in type(valid).model_fields.items())
    return {alias: getattr(valid, field) for field, alias in names if field in given}


def _explain(model: type[BaseModel], tool: str, fault: ValidationError) -> str:
    """Return a message for the model that names each wrong argument, and the valid names."""
    names = [info.alias or name for name, info in model.model_fields.items()]
    kinds: dict[str, list[str]] = {}
    for error in fault.errors(include_url=False, include_context=True):
        where = ".".join(str(step) for step in error["loc"])
        if error["type"] == "missing":
            kinds.setdefault("missing", []).append(where)
        elif error["type"] == "extra_forbidden":
            close = difflib.get_close_matches(where, names, n=1, cutoff=0.6)
            kinds.setdefault("unknown", []).append(where + (f" (did you mean {close[0]}?)" if close else ""))
        else:
            value = repr(error["input"])
            value = value if len(value) <= 40 else f"{value[:37]}..."
            kinds.setdefault("", []).append(f"{where} {_expected(error)}, got {value}")
    parts = [f"{kind} {', '.join(wrong)}".strip() for kind, wrong in kinds.items()]
    text = f"{tool}: {'; '.join(dict.fromkeys(parts))}"
    if kinds.keys() & {"missing", "unknown"}:
        text += f". Arguments: {', '.join(names)}"
    return text


_RANGES = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
_RANGE_KEYS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}


def _expected(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind in _RANGES:
        limit = error["ctx"][_RANGE_KEYS[kind]]
        return f"must be {_RANGES[kind]} {limit:g}" if isinstance(limit, float) else f"must be {_RANGES[kind]} {limit}"
    message = str(error["msg"])
    return message.replace("Input should be", "must be").replace("Value error, ", "")


def docstring(function: Callable[..., object]) -> tuple[str, dict[str, str]]:
    """Return the text of a Google-style docstring before its first section, and the description of each argument."""
    text = inspect.getdoc(function) or ""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if _SECTION.match(line)]
    description = "\n".join(lines[: starts[0] if starts else len(lines)]).strip()
    for start, end in pairwise([*starts, len(lines)]):
        if lines[start].startswith(("Args", "Arguments", "Parameters")):
            words: dict[str, str] = {}
            name = ""
            for line in textwrap.dedent("\n".join(lines[start + 1 : end])).splitlines():
                match = _ARGUMENT.match(line)
                if match:
                    name, words[match[1]] = match[1], match[2]
                elif name and line.strip():
                    words[name] += f" {line.strip()}"
            return _unwrap(description), {key: _unwrap(value) for key, value in words.items()}
    return _unwrap(description), {}


def _unwrap(text: str) -> str:
    """Return a text with each paragraph on one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
