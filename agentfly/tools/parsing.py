"""Tool calls from the text of a policy, for backends whose server does not parse them.

The forms are Hermes/Qwen tags (`<tool_call>{...}</tool_call>`), fences of JSON, and a text that is nothing but JSON.
Each holds one call, a list of calls, or, outside of tags, one call a line. A call is `{"name", "arguments"}` or
OpenAI's `{"function": {...}}`. Broken JSON is repaired only where its meaning is beyond doubt; otherwise the call
carries an error that the model can read. Parsing never raises on any text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from agentfly.messages import ToolCall

FORM = '<tool_call>{"name": "...", "arguments": {...}}</tool_call>'

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FENCE = re.compile(r"```(json|tool_call)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_WHOLE_FENCE = re.compile(r"\s*```(?:json|tool_call)?[ \t]*\n(.*?)```\s*", re.DOTALL)
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()
_NAME = re.compile(r"""["']?name["']?\s*:\s*["']([A-Za-z0-9_-]{1,64})["']""")
# Characters. The time of a repair grows faster than the text, and calls are short.
_MAX_REPAIR = 20_000


@dataclass(frozen=True)
class ParsedText:
    """The content and the calls of a turn.

    Attributes:
        content: the text outside the calls, stripped.
        calls: the calls in order, with ids `call_0`, `call_1`, ...; a call that cannot be read has its `error` set.
    """

    content: str
    calls: tuple[ToolCall, ...] = ()


class _Unreadable(Exception):
    """A call cannot be read; the message is for the model."""


def parse_tool_calls(text: str) -> ParsedText:
    """Split the text of a turn into content and calls."""
    if _OPEN in text:
        content, bodies, position = "", [], 0
        while (start := text.find(_OPEN, position)) >= 0:
            content += text[position:start]
            body, position = _read_tag(text, start + len(_OPEN))
            bodies.append(body)
        return _parsed(content + text[position:], bodies)
    fences = [match for match in _FENCE.finditer(text) if _looks_like_call(match[2], labelled=bool(match[1]))]
    if fences:
        content = text
        for match in reversed(fences):
            content = content[: match.start()] + content[match.end() :]
        return _parsed(content, [body for match in fences for body in _lines(match[2])])
    if _looks_like_call(text):
        return _parsed("", _lines(text))
    return ParsedText(text.strip())


def native_call(call_id: str, name: str, arguments: str) -> ToolCall:
    """Return a call that a server has parsed.

    Args:
        call_id: of the call.
        name: of the tool.
        arguments: as JSON text.
    """
    try:
        value = _json(arguments.strip() or "{}")
        if not isinstance(value, dict):
            raise _Unreadable("they are not a JSON object")
    except _Unreadable as fault:
        return ToolCall(call_id, name, {}, f"unreadable arguments: {fault}. Write one JSON object of names and values")
    return ToolCall(call_id, name, value)


def _parsed(content: str, bodies: Sequence[str]) -> ParsedText:
    """Return the calls of bodies, each of which holds one call or a list of them."""
    calls: list[ToolCall] = []
    for body in bodies:
        if fence := _WHOLE_FENCE.fullmatch(body):
            body = fence[1]
        try:
            value = _json(body.strip())
        except _Unreadable as fault:
            calls.append(_unreadable(len(calls), body, fault))
            continue
        entries = value if isinstance(value, list) and value and all(isinstance(v, dict) for v in value) else [value]
        for entry in entries:
            try:
                call = ToolCall(f"call_{len(calls)}", *_read_call(entry))
            except _Unreadable as fault:
                call = _unreadable(len(calls), body, fault)
            calls.append(call)
    return ParsedText(content.strip(), tuple(calls))


def _lines(text: str) -> list[str]:
    """Return the objects of a text in which each begins a line; the text itself if it is anything else."""
    bodies: list[str] = []
    position = _skip_space(text, 0)
    while (end := _end_of_json(text, position)) is not None:
        bodies.append(text[position:end])
        position = _skip_space(text, end)
        if position == len(text):
            return bodies
        if "\n" not in text[end:position]:
            break
    return [text]


def _read_tag(text: str, start: int) -> tuple[str, int]:
    """Return the body of a tag, and the position after it."""
    end = _end_of_json(text, start)
    if end is not None:
        # A valid object is taken whole, so that a tag inside one of its strings ends nothing.
        after = _skip_space(text, end)
        if after == len(text):
            return text[start:end], after
        if text.startswith(_CLOSE, after):
            return text[start:end], after + len(_CLOSE)
    following = text.find(_OPEN, start)
    stop = following if following >= 0 else len(text)
    close = text.find(_CLOSE, start, stop)
    return (text[start:close], close + len(_CLOSE)) if close >= 0 else (text[start:stop], stop)


def _end_of_json(text: str, start: int) -> int | None:
    begin = _skip_space(text, start)
    if not text.startswith("{", begin):
        return None
    try:
        return _DECODER.raw_decode(text, begin)[1]
    except (ValueError, RecursionError):
        return None


def _skip_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _looks_like_call(text: str, *, labelled: bool = False) -> bool:
    """Return True if a text is meant as a call; without the label of a fence: a whole JSON list, or any object."""
    if not (_NAME.search(text) and "arguments" in text):
        return False
    bare = text.strip()
    if labelled or bare.startswith("{"):
        return True
    try:
        return bare.startswith("[") and json.loads(bare) is not None
    except (ValueError, RecursionError):
        return False


def _unreadable(index: int, body: str, fault: _Unreadable) -> ToolCall:
    name = match[1] if (match := _NAME.search(body)) else ""
    return ToolCall(f"call_{index}", name, {}, f"unreadable tool call: {fault}. Write {FORM}")


def _read_call(call: object) -> tuple[str, dict[str, object]]:
    """Return name and arguments of a call."""
    if not isinstance(call, dict):
        raise _Unreadable("it is not one JSON object")
    inner = call.get("function")
    if "name" not in call and isinstance(inner, dict):
        call = inner
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str) or not name.strip():
        raise _Unreadable("it has no 'name'")
    if isinstance(arguments, str):
        # OpenAI's own form carries the arguments as a JSON text.
        arguments = _json(arguments)
    if not isinstance(arguments, dict):
        raise _Unreadable("'arguments' is not a JSON object" if "arguments" in call else "it has no 'arguments'")
    return name.strip(), arguments


def _json(text: str) -> object:
    """Return the value of a JSON text, which is repaired where its meaning is beyond doubt."""
    try:
        value: object = json.loads(text, parse_constant=_refuse)
    except ValueError as fault:
        value = _repair(text, fault)
    except RecursionError as fault:
        raise _Unreadable("it is nested too deeply") from fault
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as fault:
        raise _Unreadable("it holds characters that are no text") from fault
    except (ValueError, RecursionError) as fault:
        raise _Unreadable(f"it holds a value that JSON does not have ({fault})") from fault
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _repair(text: str, fault: ValueError) -> object:
    reason = f"invalid JSON ({fault.msg} at {fault.pos})" if isinstance(fault, json.JSONDecodeError) else f"{fault}"
    end = _end_of_json(text, 0)
    beyond = "" if end is None else text[end:].strip().lstrip("}")
    # A text that does not end in a brace was cut off, maybe inside a value; of two objects either could be meant.
    if not text.startswith("{") or not text.endswith("}") or beyond or len(text) > _MAX_REPAIR:
        raise _Unreadable(reason)
    import json_repair

    try:
        return json_repair.loads(text)
    except Exception as trouble:  # third-party code on arbitrary text
        raise _Unreadable(reason) from trouble
