"""Tool calls from the text of a policy, for backends whose server does not parse them.

Read are Hermes/Qwen tags (`<tool_call>{...}</tool_call>`), fences of JSON, and a text that is one JSON object. Broken
JSON is repaired only where what was meant is beyond doubt; otherwise the call carries an error that the model can read.
Parsing never raises, whatever the text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from agentfly.messages import ToolCall

FORM = '<tool_call>{"name": "...", "arguments": {...}}</tool_call>'

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FENCE = re.compile(r"```(?:json|tool_call)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
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
    fences = [match for match in _FENCE.finditer(text) if _looks_like_call(match[1])]
    if fences:
        content = text
        for match in reversed(fences):
            content = content[: match.start()] + content[match.end() :]
        return ParsedText(content.strip(), tuple(_call(i, match[1]) for i, match in enumerate(fences)))
    if text.lstrip().startswith("{") and _looks_like_call(text):
        return ParsedText("", (_call(0, text),))
    return ParsedText(text.strip())


def _tagged(text: str) -> ParsedText:
    content: list[str] = []
    calls: list[ToolCall] = []
    position = 0
    while (start := text.find(_OPEN, position)) >= 0:
        content.append(text[position:start])
        body, position = _body(text, start + len(_OPEN))
        calls.append(_call(len(calls), body))
    content.append(text[position:])
    return ParsedText("".join(content).strip(), tuple(calls))


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


def _looks_like_call(text: str) -> bool:
    return bool(_NAME.search(text)) and "arguments" in text


def _call(index: int, body: str) -> ToolCall:
    try:
        name, arguments = _read(body.strip())
        return ToolCall(f"call_{index}", name, arguments)
    except _Unreadable as fault:
        name = match[1] if (match := _NAME.search(body)) else ""
        return ToolCall(f"call_{index}", name, {}, f"unreadable tool call: {fault}. Write {FORM}")


def _read(body: str) -> tuple[str, dict[str, Any]]:
    call = _json(body)
    if not isinstance(call, dict):
        raise _Unreadable("it is not one JSON object")
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
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as fault:
        raise _Unreadable("it holds characters that are no text") from fault
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
