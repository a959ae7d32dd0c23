"""Tool calls from the text of a policy, for backends whose server does not parse them.

The forms are Hermes/Qwen tags (`<tool_call>{...}</tool_call>`), fences of JSON, and a text that is nothing but JSON;
or, for a policy of another family, the form of that family (`agentfly.tools.call_forms`).
Each holds one call, a list of calls, or, outside of tags, one call a line. A call is `{"name", "arguments"}` or
OpenAI's `{"function": {...}}`. A call that is drafted in a thought (`<think>`) is part of the thought, and an error
where neither a call nor an answer follows.

Broken JSON is repaired only where its meaning is beyond doubt; otherwise the call carries an error that the model can
read. So does a text that is plainly a call of a known tool in a form of another family. Parsing never raises on any
text, and its time grows with the length of the text and no faster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from agentfly.lenient_json import MAX_DEPTH, nested_deeper, read_with_slips
from agentfly.messages import NO_ARGUMENTS, ToolCall
from agentfly.templates.families import CallForm
from agentfly.tools.call_forms import READERS, Broken
from agentfly.tools.other_forms import name_in_other_form
from agentfly.tools.thoughts import FENCE, MARKS, MAX_VALUES, OPEN, Thoughts, decode, skip_space, split_thoughts

FORM = '<tool_call>{"name": "...", "arguments": {...}}</tool_call>'

_CLOSE = "</tool_call>"
_WHOLE_FENCE = re.compile(r"\s*(`{3,}+|~{3,}+)[ \t]*+[\w+-]*+(.*)\1\s*", re.DOTALL)
_LABELS = ("", "json", "tool_call")
_NAME = re.compile(r"""["']?name["']?\s*:\s*["']([A-Za-z0-9_-]{1,64})["']""")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
# Characters of one text. A repair takes a microsecond for each, and calls are short.
_MAX_REPAIR = 20_000
# Calls of one text that are read, and that are returned at all; no chain makes as many in a turn.
_MAX_CALLS = MAX_VALUES
_MAX_LISTED = 20_000
_TOO_MANY = f"more than {_MAX_CALLS} tool calls in one turn: this one was not read. Call fewer tools at once"
_IN_THOUGHT = "the call stood inside your thought: write it after"

_UNREAD = object()
# A text that holds one call or a list of them, and its JSON value if that is known already.
_Body = tuple[str, object]
_Reader = Callable[[str], tuple[str, list[_Body], int]]


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


def parse_tool_calls(
    text: str,
    *,
    thinking: bool = False,
    cut: bool = False,
    names: Collection[str] = (),
    form: CallForm | None = None,
    marks: tuple[str, str] = MARKS,
) -> ParsedText:
    """Split the text of a turn into content and calls.

    Args:
        text: as sampled.
        thinking: the text begins inside a thought, which the prompt has opened.
        cut: a limit ended the text, maybe inside a thought.
        names: of the tools that the policy has; calls of them in forms of other families are errors.
        form: of the policy's calls; JSON when None.
        marks: with which its thoughts begin and end.
    """
    thoughts = split_thoughts(text, thinking=thinking, marks=marks)
    reader, example = _reader(form), FORM if form is None else form.example
    kept: list[str] = []
    bodies: list[_Body] = []
    position, unread = 0, 0
    for start, stop in thoughts.spoken:
        content, found, more = reader(text[start:stop])
        kept += text[position:start], content
        bodies += found
        unread += more
        position = stop
    calls = _read(bodies, unread, example)
    if not calls and thoughts.spoken:
        name = name_in_other_form(text[slice(*thoughts.spoken[-1])], names)
        other = f"unreadable tool call: it is in another form. Write {example}"
        calls = () if name is None else (ToolCall("call_0", name, {}, other),)
    if not calls and not cut and thoughts.drafted:
        calls = _drafted_call(text, thoughts, reader, marks[1])
    return ParsedText("".join([*kept, text[position:]]).strip(), calls)


def native_call(call_id: str, name: str, arguments: object) -> ToolCall:
    """Return a call that a server has parsed.

    Args:
        call_id: of the call.
        name: of the tool.
        arguments: as JSON text, which may be that of a JSON text again, or as an object; None for none.
    """
    try:
        return ToolCall(call_id, name, _arguments(arguments, _JsonReader(), "they are not a JSON object"))
    except _Unreadable as fault:
        return ToolCall(call_id, name, {}, f"unreadable arguments: {fault}. Write one JSON object of names and values")


def read_structure(text: str) -> object:
    """Return the object or list of a JSON text, which may have small slips; None for any other text."""
    bare = text.strip()
    if not bare.startswith(("{", "[")):
        return None
    try:
        value = _JsonReader().read(bare)
        _check_text(value)
    except _Unreadable:
        return None
    return None if nested_deeper(value, MAX_DEPTH) else value


def _reader(form: CallForm | None) -> _Reader:
    """Return the function that reads the calls of a form, and returns what `_read_part` does."""
    if form is None or form.name not in READERS:
        return _read_part
    read = READERS[form.name]

    def read_form(text: str) -> tuple[str, list[_Body], int]:
        content, found = read(text)
        return content, [("", value) for value in found[:_MAX_CALLS]], len(found) > _MAX_CALLS

    return read_form


def _drafted_call(text: str, thoughts: Thoughts, reader: _Reader, ends: str) -> tuple[ToolCall, ...]:
    """Return an error for the last call that can be read and stands in the thoughts; nothing where there is none.

    A draft beside an answer is part of the thought. But a text that begins with a call, and ends a thought that nothing
    began, is hardly a thought: there the mark is a slip.
    """
    drafted = thoughts.drafted
    if thoughts.answered:
        begins = thoughts.closes_none and text.lstrip().startswith((OPEN, "{", "[", "```", "~~~"))
        drafted = drafted[:1] if begins else ()
    bodies = [body for start, stop in drafted for body in reader(text[start:stop])[1]]
    for call in reversed(_read(bodies)):
        if call.error is None:
            return (ToolCall("call_0", call.name, {}, f"{_IN_THOUGHT} {ends}"),)
    return ()


def _read_part(text: str) -> tuple[str, list[_Body], int]:
    """Return the content, not stripped, and the bodies of a text without thoughts, and how many more tags it has."""
    if OPEN in text:
        return _read_tags(text)
    if "arguments" in text:
        content, bodies = _read_fences(text)
        if bodies:
            return content, bodies, 0
        if _looks_like_call(text):
            bodies, end = _objects(text, 0)
            whole = bodies and skip_space(text, end) == len(text)
            return "", bodies if whole else [(text, _UNREAD)], 0
    return text, [], 0


def _read_tags(text: str) -> tuple[str, list[_Body], int]:
    outside: list[str] = []
    bodies: list[_Body] = []
    position, unread = 0, 0
    while (start := text.find(OPEN, position)) >= 0:
        outside.append(text[position:start])
        if len(bodies) == _MAX_CALLS:
            unread, position = text.count(OPEN, start), len(text)
            break
        body, position = _read_tag(text, start + len(OPEN))
        bodies.append(body)
    outside.append(text[position:])
    return "".join(outside), bodies, unread


def _read_tag(text: str, start: int) -> tuple[_Body, int]:
    """Return the body of a tag, and the position after it."""
    decoded = decode(text, skip_space(text, start))
    if decoded is not None:
        # A valid object is taken whole, so that a tag inside one of its strings ends nothing.
        value, end = decoded
        after = skip_space(text, end)
        if after == len(text):
            return (text[start:end], value), after
        if text.startswith(_CLOSE, after):
            return (text[start:end], value), after + len(_CLOSE)
    following = text.find(OPEN, start)
    stop = following if following >= 0 else len(text)
    close = text.find(_CLOSE, start, stop)
    body = text[start : close if close >= 0 else stop]
    return (body, _UNREAD), close + len(_CLOSE) if close >= 0 else stop


def _read_fences(text: str) -> tuple[str, list[_Body]]:
    """Return the text outside the fences that hold calls, and the bodies of these fences."""
    outside: list[str] = []
    bodies: list[_Body] = []
    kept, position = 0, 0
    for _ in range(_MAX_CALLS):
        fence = FENCE.search(text, position)
        if fence is None:
            break
        found, end = _objects(text, fence.end())
        after = skip_space(text, end)
        if not found or not (after == len(text) or text.startswith(fence[1], after)):
            close = text.find(fence[1], fence.end())
            after = close if close >= 0 else len(text)
            found = [(text[fence.end() : after], _UNREAD)]
        position = min(len(text), after + len(fence[1]))
        label = fence[2].lower()
        if label in _LABELS and _looks_like_call(text[fence.end() : after], labelled=bool(label)):
            outside.append(text[kept : fence.start()])
            kept = position
            bodies += found
    return "".join(outside) + text[kept:], bodies


def _objects(text: str, start: int) -> tuple[list[_Body], int]:
    """Return the JSON objects and lists, each of which begins a line, from a position on, and the end of the last."""
    bodies: list[_Body] = []
    end, position = start, skip_space(text, start)
    while len(bodies) < _MAX_CALLS and (decoded := decode(text, position)) is not None:
        value, end = decoded
        bodies.append((text[position:end], value))
        position = skip_space(text, end)
        if "\n" not in text[end:position]:
            break
    return bodies, end


def _looks_like_call(text: str, *, labelled: bool = False) -> bool:
    """Return True if a text is meant as a call; without the label of a fence: a whole JSON list, or any object."""
    if not ("arguments" in text and _NAME.search(text)):
        return False
    bare = text.strip()
    if labelled or bare.startswith("{"):
        return True
    decoded = decode(bare, 0) if bare.startswith("[") else None
    return decoded is not None and decoded[1] == len(bare)


def _read(bodies: Sequence[_Body], unread: int = 0, example: str = FORM) -> tuple[ToolCall, ...]:
    """Return the calls of bodies, and errors for `unread` calls after them; `example` shows how to write one."""
    calls: list[ToolCall] = []
    reader = _JsonReader()
    for text, known in bodies:
        if isinstance(known, Broken):
            calls.append(_unreadable(len(calls), known.name, _Unreadable(known.reason), example))
            continue
        try:
            value = reader.read(_without_fence(text)) if known is _UNREAD else known
        except _Unreadable as fault:
            match = _NAME.search(text)
            calls.append(_unreadable(len(calls), match[1] if match else "", fault, example))
            continue
        entries = value if isinstance(value, list) and value and all(isinstance(v, dict) for v in value) else [value]
        room = max(0, _MAX_CALLS - len(calls))
        unread += len(entries) > room
        for entry in entries[:room]:
            try:
                call = ToolCall(f"call_{len(calls)}", *_read_call(entry, reader))
            except _Unreadable as fault:
                call = _unreadable(len(calls), _name_of(entry), fault, example)
            calls.append(call)
    listed = min(len(calls) + unread, _MAX_LISTED)
    calls += [ToolCall(f"call_{index}", "", {}, _TOO_MANY) for index in range(len(calls), listed)]
    return tuple(calls)


def _without_fence(text: str) -> str:
    fence = _WHOLE_FENCE.fullmatch(text)
    return (fence[2] if fence else text).strip()


def _unreadable(index: int, name: str, fault: _Unreadable, example: str) -> ToolCall:
    return ToolCall(f"call_{index}", name, {}, f"unreadable tool call: {fault}. Write {example}")


def _function_of(call: Mapping[str, object]) -> Mapping[str, object]:
    inner = call.get("function")
    return inner if "name" not in call and isinstance(inner, dict) else call


def _name_of(entry: object) -> str:
    """Return the name of a call that cannot be read."""
    name = _function_of(entry).get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and _PLAIN_NAME.fullmatch(name) else ""


def _read_call(entry: object, reader: _JsonReader) -> tuple[str, dict[str, object]]:
    """Return name and arguments of a call."""
    if not isinstance(entry, dict):
        raise _Unreadable("it is not one JSON object")
    call = _function_of(entry)
    name = call.get("name")
    if not isinstance(name, str) or not name.strip():
        raise _Unreadable("it has no 'name'")
    _check_text(name)
    if "arguments" not in call:
        raise _Unreadable("it has no 'arguments'")
    return name.strip(), _arguments(call["arguments"], reader, "'arguments' is not a JSON object")


def _arguments(given: object, reader: _JsonReader, otherwise: str) -> dict[str, object]:
    """Return arguments that are an object, or the JSON text of one, or the JSON text of such a text.

    Args:
        given: an object or a text; null and the texts of `NO_ARGUMENTS` are none.
        reader: of this turn.
        otherwise: reason where they are anything else.
    """
    for _ in range(2):
        # OpenAI's own form is a JSON text, and some servers write it as a JSON string once more.
        if isinstance(given, str):
            text = given.strip()
            given = None if text in NO_ARGUMENTS else reader.read(text)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise _Unreadable(otherwise)
    arguments = dict(given)
    if nested_deeper(arguments, MAX_DEPTH + 1):
        raise _Unreadable("it is nested too deeply")
    _check_text(arguments)
    return arguments


def _check_text(value: object) -> None:
    """Refuse what a file of JSON in UTF-8 cannot hold."""
    try:
        _ENCODER.encode(value).encode()
    except UnicodeEncodeError as fault:
        raise _Unreadable("it holds characters that are no text") from fault
    except (ValueError, TypeError, RecursionError) as fault:
        raise _Unreadable(f"it holds a value that JSON does not have ({fault})") from fault


class _JsonReader:
    """Read JSON texts of one turn, and repair as many of them as there is time for."""

    def __init__(self) -> None:
        self._room = _MAX_REPAIR

    def read(self, text: str) -> object:
        """Return the value of a JSON text, which is repaired where its meaning is beyond doubt."""
        try:
            value: object = json.loads(text)
            return value
        except json.JSONDecodeError as fault:
            return self._repair(text, f"invalid JSON ({fault.msg} at {fault.pos})")
        except ValueError as fault:
            raise _Unreadable(f"{fault}") from fault
        except RecursionError as fault:
            raise _Unreadable("it is nested too deeply") from fault

    def _repair(self, text: str, reason: str) -> object:
        # A text that does not end in a bracket was cut off, maybe inside a value.
        ends = text[:1] + text[-1:]
        if ends not in ("{}", "[]") or len(text) > self._room:
            raise _Unreadable(reason)
        self._room -= len(text)
        try:
            return read_with_slips(text)
        except ValueError as fault:
            raise _Unreadable(reason) from fault
