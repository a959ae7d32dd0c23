"""Readers of the forms of tool calls that families other than Qwen's JSON tags were taught.

Each reader takes a text without thoughts, and returns the text outside its calls and the calls as they stand there, in
order. Values that a form writes as plain text stay texts: the schema of the tool says what they mean. Reading never
raises, and its time grows with the length of the text and no faster.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentfly.lenient_json import MAX_DEPTH
from agentfly.tools.thoughts import MAX_VALUES, decode, skip_space

# Characters of one call in Python's syntax, which the interpreter's own parser reads.
_MOST_PYTHON = 20_000
_GEMMA_QUOTE = '<|"|>'
_BARE = re.compile(r"[^,}\]<\s][^,}\]<]*")
_NAME = re.compile(r"[\w.-]{1,64}")


@dataclass(frozen=True)
class Broken:
    """A call that cannot be read.

    Attributes:
        reason: for the model.
        name: of the tool, "" where that is not known either.
    """

    reason: str
    name: str = ""


# A call as `{"name", "arguments"}`, or the reason why it is none.
Found = Mapping[str, object] | Broken
Reader = Callable[[str], tuple[str, list[Found]]]


def _call(name: str, arguments: object) -> Found:
    return {"name": name, "arguments": arguments}


def read_function_xml(text: str) -> tuple[str, list[Found]]:
    """Read `<tool_call><function=NAME><parameter=ARGUMENT>VALUE</parameter></function></tool_call>`."""
    outside: list[str] = []
    found: list[Found] = []
    position = 0
    while (start := text.find("<function=", position)) >= 0 and len(found) <= MAX_VALUES:
        outside.append(_before_tag(text[position:start]))
        following = text.find("<function=", start + 1)
        stop = following if following >= 0 else len(text)
        close = text.find("</function>", start, stop)
        found.append(_read_function(text[start + len("<function=") : close if close >= 0 else stop], close >= 0))
        position = _after_tag(text, close + len("</function>")) if close >= 0 else stop
    outside.append(text[position:])
    return "".join(outside), found


def _before_tag(text: str) -> str:
    bare = text.rstrip()
    return bare.removesuffix("<tool_call>") if bare.endswith("<tool_call>") else text


def _after_tag(text: str, position: int) -> int:
    after = skip_space(text, position)
    return after + len("</tool_call>") if text.startswith("</tool_call>", after) else position


def _read_function(body: str, closed: bool) -> Found:
    name, mark, rest = body.partition(">")
    name = name.strip()
    if not mark or not _NAME.fullmatch(name):
        return Broken("<function=...> names no tool")
    if not closed:
        return Broken("it has no </function>", name)
    arguments: dict[str, object] = {}
    position = 0
    while (start := rest.find("<parameter=", position)) >= 0:
        end = rest.find("</parameter>", start)
        key, mark, value = rest[start + len("<parameter=") : end if end >= 0 else len(rest)].partition(">")
        if end < 0 or not mark:
            return Broken("a parameter has no </parameter>", name)
        arguments[key.strip()] = value.removeprefix("\n").removesuffix("\n")
        position = end + len("</parameter>")
    return _call(name, arguments)


def read_argument_pairs(text: str) -> tuple[str, list[Found]]:
    """Read `<tool_call>NAME<arg_key>ARGUMENT</arg_key><arg_value>VALUE</arg_value></tool_call>`."""
    outside: list[str] = []
    found: list[Found] = []
    position = 0
    while (start := text.find("<tool_call>", position)) >= 0 and len(found) <= MAX_VALUES:
        outside.append(text[position:start])
        begin = start + len("<tool_call>")
        following = text.find("<tool_call>", begin)
        stop = following if following >= 0 else len(text)
        close = text.find("</tool_call>", begin, stop)
        found.append(_read_pairs(text[begin : close if close >= 0 else stop], close >= 0))
        position = close + len("</tool_call>") if close >= 0 else stop
    outside.append(text[position:])
    return "".join(outside), found


def _read_pairs(body: str, closed: bool) -> Found:
    name = body.partition("<arg_key>")[0].strip()
    if not _NAME.fullmatch(name):
        return Broken("<tool_call> is not followed by the name of a tool")
    if not closed:
        return Broken("it has no </tool_call>", name)
    arguments: dict[str, object] = {}
    position = 0
    while (start := body.find("<arg_key>", position)) >= 0:
        key, _, rest = body[start + len("<arg_key>") :].partition("</arg_key>")
        begin = body.find("<arg_value>", start)
        end = body.find("</arg_value>", begin)
        if begin < 0 or end < 0 or rest.strip()[: len("<arg_value>")] != "<arg_value>":
            return Broken("an <arg_key> has no <arg_value> after it", name)
        arguments[key.strip()] = body[begin + len("<arg_value>") : end]
        position = end
    return _call(name, arguments)


def read_call_tokens(text: str) -> tuple[str, list[Found]]:
    """Read `<|tool_call>call:NAME{ARGUMENT:<|"|>VALUE<|"|>}<tool_call|>`; values without quotes are JSON's."""
    outside: list[str] = []
    found: list[Found] = []
    position = 0
    while (start := text.find("<|tool_call>", position)) >= 0 and len(found) <= MAX_VALUES:
        outside.append(text[position:start])
        begin = start + len("<|tool_call>")
        name = _NAME.match(text, begin + len("call:")) if text.startswith("call:", begin) else None
        if name is None:
            found.append(Broken("call:NAME is missing"))
            position = begin
            continue
        try:
            arguments, end = _read_value(text, name.end(), 0)
        except ValueError as fault:
            found.append(Broken(str(fault), name[0]))
            position = name.end()
            continue
        found.append(_call(name[0], arguments))
        position = end + len("<tool_call|>") if text.startswith("<tool_call|>", end) else end
    outside.append(text[position:])
    return "".join(outside), found


def _read_value(text: str, start: int, depth: int) -> tuple[object, int]:
    """Return a value and its end; raise `ValueError` where there is none."""
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if text.startswith(_GEMMA_QUOTE, start):
        begin = start + len(_GEMMA_QUOTE)
        if (end := text.find(_GEMMA_QUOTE, begin)) < 0:
            raise ValueError(f"a text has no closing {_GEMMA_QUOTE}")
        return text[begin:end], end + len(_GEMMA_QUOTE)
    if text.startswith(("{", "["), start):
        return _read_items(text, start, depth)
    if (bare := _BARE.match(text, start)) is None:
        raise ValueError(f"a value is missing at {text[start : start + 12]!r}")
    word = bare[0].strip()
    try:
        return json.loads(word), bare.end()
    except ValueError:
        raise ValueError(f"{word[:20]!r} is no value: a text stands between {_GEMMA_QUOTE}") from None


def _read_items(text: str, start: int, depth: int) -> tuple[object, int]:
    """Return an object or a list, and its end."""
    names, close = text[start] == "{", "}" if text[start] == "{" else "]"
    fields: dict[str, object] = {}
    items: list[object] = []
    position = skip_space(text, start + 1)
    while not text.startswith(close, position):
        key = ""
        if names:
            quoted = text.startswith(_GEMMA_QUOTE, position)
            colon = text.find(":", position)
            if colon < 0:
                raise ValueError("an argument has no value")
            key = text[position:colon].strip().strip('"')
            key = key.removeprefix(_GEMMA_QUOTE).removesuffix(_GEMMA_QUOTE) if quoted else key
            position = skip_space(text, colon + 1)
        value, position = _read_value(text, position, depth + 1)
        if names:
            fields[key] = value
        else:
            items.append(value)
        position = skip_space(text, position)
        if text.startswith(",", position):
            position = skip_space(text, position + 1)
        elif not text.startswith(close, position):
            raise ValueError(f"{close} is missing")
    return (fields if names else items), position + 1


def read_bracket_tokens(text: str) -> tuple[str, list[Found]]:
    """Read `[TOOL_CALLS]NAME[ARGS]{JSON}`, one after the other, and the older `[TOOL_CALLS][{"name", "arguments"}]`."""
    first = text.find("[TOOL_CALLS]")
    if first < 0:
        return text, []
    found: list[Found] = []
    rest = ""
    for piece in text[first:].split("[TOOL_CALLS]")[1 : MAX_VALUES + 2]:
        body = piece.strip()
        if body.startswith("["):
            listed = decode(body, 0)
            values = listed[0] if listed is not None else None
            if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
                found.append(Broken("it is no list of JSON objects"))
                continue
            found += values
            rest += body[listed[1] :] if listed is not None else ""
            continue
        name = _NAME.match(body)
        if name is None:
            found.append(Broken("the name of a tool is missing"))
            continue
        begin = skip_space(body, name.end())
        begin = skip_space(body, begin + len("[ARGS]")) if body.startswith("[ARGS]", begin) else begin
        arguments = decode(body, begin)
        if arguments is None:
            found.append(Broken("its arguments are no JSON object", name[0]))
            continue
        found.append(_call(name[0], arguments[0]))
        rest += body[arguments[1] :]
    return text[:first] + rest, found


def read_python_tokens(text: str) -> tuple[str, list[Found]]:
    """Read `<|tool_call_start|>[NAME(ARGUMENT=VALUE)]<|tool_call_end|>`; values are Python's literals."""
    outside: list[str] = []
    found: list[Found] = []
    position = 0
    while (start := text.find("<|tool_call_start|>", position)) >= 0 and len(found) <= MAX_VALUES:
        outside.append(text[position:start])
        begin = start + len("<|tool_call_start|>")
        end = text.find("<|tool_call_end|>", begin)
        found += _read_python(text[begin : end if end >= 0 else len(text)])
        position = end + len("<|tool_call_end|>") if end >= 0 else len(text)
    outside.append(text[position:])
    return "".join(outside), found


def _read_python(body: str) -> list[Found]:
    if len(body) > _MOST_PYTHON:
        return [Broken("it is too long")]
    try:
        tree = ast.parse(body.strip(), mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List) else [tree]
        return [_read_python_call(call) for call in calls]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        return [Broken(f"it is no list of calls in Python's syntax ({type(fault).__name__})")]


def _read_python_call(call: ast.expr) -> Found:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name | ast.Attribute):
        return Broken("it is no call of a tool")
    name = ast.unparse(call.func)
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        return Broken("its arguments have no names", name)
    try:
        return _call(name, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords})
    except (ValueError, TypeError, RecursionError):
        return Broken("a value is no text, number, list or object", name)


# By the name of the form; JSON in tags is read by `agentfly.tools.parsing` itself.
READERS: Mapping[str, Reader] = {
    "function-xml": read_function_xml,
    "argument-pairs": read_argument_pairs,
    "call-tokens": read_call_tokens,
    "bracket-tokens": read_bracket_tokens,
    "python-tokens": read_python_tokens,
}
