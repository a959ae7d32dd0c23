"""Check the arguments of a call, and tell the model what is wrong with them."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agentfly.errors import ToolError, shortened
from agentfly.tools.parsing import read_structure

_NULLS = ("null", "None")
# Faults of pydantic's for a value that is no list, no object, ...
_STRUCTURES = frozenset(
    ("list_type", "tuple_type", "set_type", "frozen_set_type", "sequence_str", "dict_type", "mapping_type")
) | {"model_type", "model_attributes_type", "dataclass_type", "iterable_type"}
_MOST_WRONG = 16
_RANGES = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
_RANGE_KEYS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}


def checked_arguments(model: type[BaseModel], tool: str, arguments: Mapping[str, object]) -> dict[str, object]:
    """Check arguments and return them for the function, converted where that is safe ("3" -> 3).

    Args:
        model: pydantic model of the arguments.
        tool: name of the tool, for messages.
        arguments: as the model sent them.

    Raises:
        ToolError: unknown, missing or wrong arguments; the message names each, and the valid names.
    """
    found = _without_nulls(model, arguments)
    try:
        try:
            valid = model.model_validate(found)
        except ValidationError as fault:
            # The record of the call holds the same lists and objects.
            found = copy.deepcopy(found)
            if not _read_texts(found, fault):
                raise
            valid = model.model_validate(found)
    except ValidationError as fault:
        raise ToolError(_explain(model, tool, fault)) from fault
    given = valid.model_fields_set
    names = ((field, info.alias or field) for field, info in type(valid).model_fields.items())
    return {alias: getattr(valid, field) for field, alias in names if field in given}


def _without_nulls(model: type[BaseModel], arguments: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments without optional ones for which null can only mean "not given".

    A null is a value where the hint admits it and the default is another value. The words for null are values where
    the hint lists them, or admits any text and is not optional (`str | None = None`).
    """
    found = dict(arguments)
    nulls = [name for name, value in found.items() if value is None or value in _NULLS]
    if nulls:
        fields = {info.alias: info for info in model.model_fields.values() if not info.is_required()}
        for name in nulls:
            if (info := fields.get(name)) is None:
                continue
            left_out = info.default is None or not _admits(info.annotation, NoneType)
            if found[name] is not None:
                is_text = _admits(info.annotation, str) and info.default is not None
                if is_text or _is_choice(info.annotation, found[name]):
                    continue
                found[name] = None
            if left_out:
                del found[name]
    return found


def _admits(hint: object, kind: type) -> bool:
    """Return True if a hint admits every value of a type, which is `str` or that of None."""
    if hint is Any or hint is object or hint is kind:
        return True
    if get_origin(hint) is Literal:
        return kind is NoneType and None in get_args(hint)
    return get_origin(hint) in (Union, UnionType, Annotated) and any(_admits(inner, kind) for inner in get_args(hint))


def _is_choice(hint: object, word: object) -> bool:
    """Return True if a word is one of the values that a hint lists."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return any(word == member.value for member in hint)
    if get_origin(hint) is Literal:
        return word is not None and word in get_args(hint)
    return any(_is_choice(inner, word) for inner in get_args(hint))


def _read_texts(arguments: dict[str, object], fault: ValidationError) -> bool:
    """Read the JSON texts that stand where the schema has objects or lists. Return True if there was one.

    Args:
        arguments: as the model sent them; changed in place.
        fault: of checking them.
    """
    changed = False
    for error in fault.errors(include_url=False, include_context=False):
        text: object = error["input"]
        if error["type"] not in _STRUCTURES or not isinstance(text, str) or (value := read_structure(text)) is None:
            continue
        holder: Any = arguments
        for step in error["loc"]:
            # A union adds steps that name its branches and no place.
            if step not in (holder if isinstance(holder, dict) else range(len(holder))):
                continue
            if holder[step] is text or holder[step] == text:
                holder[step] = value
                changed = True
                break
            holder = holder[step]
    return changed


def _explain(model: type[BaseModel], tool: str, fault: ValidationError) -> str:
    """Return a message for the model that names each wrong argument, and the valid names."""
    names = [info.alias or name for name, info in model.model_fields.items()]
    kinds: dict[str, list[str]] = {}
    for error in fault.errors(include_url=False, include_context=True):
        where = shortened(".".join(str(step) for step in error["loc"]))
        if error["type"] == "missing":
            kinds.setdefault("missing", []).append(where)
        elif error["type"] == "extra_forbidden":
            unknown = kinds.setdefault("unknown", [])
            # Those that the message only counts need no search, which a hostile call could make take very long.
            shown = len(unknown) < _MOST_WRONG
            close = difflib.get_close_matches(where, names, n=1, cutoff=0.6) if shown else ()
            unknown.append(where + (f" (did you mean {close[0]}?)" if close else ""))
        else:
            value = repr(error["input"])
            value = value if len(value) <= 40 else f"{value[:37]}..."
            kinds.setdefault("", []).append(f"{where} {_expected(error)}, got {value}")
    parts = [f"{kind} {_first(wrong)}".strip() for kind, wrong in kinds.items()]
    text = f"{tool}: {'; '.join(dict.fromkeys(parts))}"
    if kinds.keys() & {"missing", "unknown"}:
        text += f". Arguments: {', '.join(names)}"
    return text


def _first(wrong: Sequence[str]) -> str:
    more = f", {len(wrong) - _MOST_WRONG} more" if len(wrong) > _MOST_WRONG else ""
    return ", ".join(wrong[:_MOST_WRONG]) + more


def _expected(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind in _RANGES:
        limit = error["ctx"][_RANGE_KEYS[kind]]
        return f"must be {_RANGES[kind]} {limit:g}" if isinstance(limit, float) else f"must be {_RANGES[kind]} {limit}"
    message = str(error["msg"])
    return message.replace("Input should be", "must be").replace("Value error, ", "")
