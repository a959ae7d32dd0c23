"""Tool calls from the text of a policy, for backends whose server does not parse them.

Read are Hermes/Qwen tags (`<tool_call>{...}</tool_call>`), fences of JSON, and a text that is nothing but JSON: in
each, one call, a list of calls, or, outside of tags, one call a line. A call is `{"name", "arguments"}` or OpenAI's
`{"function": {...}}`. Broken JSON is repaired only where what was meant is beyond doubt; otherwise the call carries an
error that the model can read. Parsing never raises, whatever the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentfly.messages import ToolCall

FORM = '<tool_call>{"name": "...", "arguments": {...}}</tool_call>'

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FENCE = re.compile(r"```(json|tool_call)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_WHOLE_FENCE = re.compile(r"\s*```(?:json|tool_call)?[ \t]*\n(.*?)```\s*", re.DOTALL)
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()
_NAME = re.compile(r"""["']?name["']?\s*:\s*["']([A-Za-z0-9_-]{1,64})["']""")
# The time of a repair grows faster than the text; calls are short.
_MAX_REPAIR = 20_000


@dataclass(frozen=True)
class ParsedText:
    """What a turn says, and what it calls.

    Attributes:
        content: the text outside the calls, stripped.
        calls: the calls in order, with ids `call_0`, `call_1`, ...; a call that cannot be read has its `error` set.
    """

    content: str
    calls: tuple[ToolCall, ...] = ()


class _Unreadable(Exception):
    """What is wrong with a call, in words for the model."""


def parse_tool_calls(text: str) -> ParsedText:
    """Split the text of a turn into content and calls."""
    if _OPEN in text:
        return _tagged(text)
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
    """The call that a server has read, with its arguments as the JSON text in which they came."""
    try:
        value = _json(arguments.strip() or "{}")
        if not isinstance(value, dict):
            raise _Unreadable("they are not a JSON object")
    except _Unreadable as fault:
        return ToolCall(call_id, name, {}, f"unreadable arguments: {fault}. Write one JSON object of names and values")
    return ToolCall(call_id, name, value)


def _tagged(text: str) -> ParsedText:
    content: list[str] = []
    bodies: list[str] = []
    position = 0
    while (start := text.find(_OPEN, position)) >= 0:
        content.append(text[position:start])
        body, position = _body(text, start + len(_OPEN))
        bodies.append(body)
    content.append(text[position:])
    return _parsed("".join(content), bodies)


def _parsed(content: str, bodies: Sequence[str]) -> ParsedText:
    calls: list[ToolCall] = []
    for body in bodies:
        calls += _calls(len(calls), body)
    return ParsedText(content.strip(), tuple(calls))


def _lines(text: str) -> list[str]:
    """The objects of a text in which each begins a line; the text itself if it is anything else."""
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


def _body(text: str, start: int) -> tuple[str, int]:
    """What a tag holds, and where the text goes on."""
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
    """Whether a text is meant as a call; without the label of a fence it must be JSON, whole or a broken object."""
    if not (_NAME.search(text) and "arguments" in text):
        return False
    bare = text.strip()
    return labelled or bare.startswith("{") or (bare.startswith("[") and _is_json(bare))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _calls(index: int, body: str) -> list[ToolCall]:
    """What one tag, fence or line holds: one call, or a list of them."""
    if fence := _WHOLE_FENCE.fullmatch(body):
        body = fence[1]
    try:
        value = _json(body.strip())
    except _Unreadable as fault:
        return [_unreadable(index, body, fault)]
    listed = isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value)
    return [_call(index + i, entry, body) for i, entry in enumerate(value if listed else [value])]


def _call(index: int, value: Any, body: str) -> ToolCall:
    try:
        return ToolCall(f"call_{index}", *_read(value))
    except _Unreadable as fault:
        return _unreadable(index, body, fault)


def _unreadable(index: int, body: str, fault: _Unreadable) -> ToolCall:
    name = match[1] if (match := _NAME.search(body)) else ""
    return ToolCall(f"call_{index}", name, {}, f"unreadable tool call: {fault}. Write {FORM}")


def _read(call: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(call, dict):
        raise _Unreadable("it is not one JSON object")
    if "name" not in call and isinstance(call.get("function"), dict):
        call = call["function"]
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str) or not name.strip():
        raise _Unreadable("it has no 'name'")
    if isinstance(arguments, str):
        # OpenAI's own form carries the arguments as a JSON text.
        arguments = _json(arguments)
    if not isinstance(arguments, dict):
        raise _Unreadable("'arguments' is not a JSON object" if "arguments" in call else "it has no 'arguments'")
    return name.strip(), arguments


def _json(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except ValueError as fault:
        value = _repaired(text, fault)
    except RecursionError as fault:
        raise _Unreadable("it is nested too deeply") from fault
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as fault:
        raise _Unreadable("it holds characters that are no text") from fault
    except (ValueError, RecursionError) as fault:
        raise _Unreadable(f"it holds a value that JSON does not have ({fault})") from fault
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _repaired(text: str, fault: ValueError) -> Any:
    reason = f"invalid JSON ({fault.msg} at {fault.pos})" if isinstance(fault, json.JSONDecodeError) else f"{fault}"
    end = _end_of_json(text, 0)
    beyond = "" if end is None else text[end:].strip().lstrip("}")
    # A text that does not end in a brace was cut off, maybe inside a value; two objects leave open which one is meant.
    if not text.startswith("{") or not text.endswith("}") or beyond or len(text) > _MAX_REPAIR:
        raise _Unreadable(reason)
    import json_repair

    try:
        return json_repair.loads(text)
    except Exception as trouble:  # third-party code on arbitrary text
        raise _Unreadable(reason) from trouble
