"""Turns from a file in place of a policy, to test tools and reward without a model.

A file is YAML or JSON lines. It holds one of:

    a list of turns                 every chain gets them
    a list of lists                 the n-th task gets the n-th list (a line of JSON lines is one list)
    a mapping of ids to lists       a task gets those of its id, or else those of "default"

A turn is a text as a policy would sample it, or a call, which is written in the form of the policy's family:
`{call: TOOL, arguments: {...}}`, with words before it as `text`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentfly.datasets.tables import parse_json, read_lines
from agentfly.errors import ConfigError, shortened
from agentfly.files import read_yaml
from agentfly.messages import Message, TextPart, ToolCall
from agentfly.templates import ChatCodec

DEFAULT = "default"
_FORM = "write a list of turns, a list of lists (one a task), or a mapping of task ids to lists"


@dataclass(frozen=True)
class Script:
    """The turns of a file.

    Attributes:
        path: of the file.
        for_all: of every task; None where tasks have their own.
        by_number: of the n-th task.
        by_id: of a task by its id; "default" for the others.
    """

    path: Path
    for_all: tuple[Message, ...] | None = None
    by_number: Sequence[tuple[Message, ...]] = ()
    by_id: Mapping[str, tuple[Message, ...]] = field(default_factory=dict)

    def turns(self, number: int, task_id: str, codec: ChatCodec | None) -> list[str]:
        """Return the texts of the turns of a task.

        Args:
            number: of the task, from 0.
            task_id: its id.
            codec: writes calls in the form of its family; without one they have the tags that the parser always reads.

        Raises:
            ConfigError: the file has no turns for the task.
        """
        found = self.for_all
        if found is None and self.by_id:
            found = self.by_id.get(task_id, self.by_id.get(DEFAULT))
        elif found is None and number < len(self.by_number):
            found = self.by_number[number]
        if found is None:
            other = f"turns under {DEFAULT!r}" if self.by_id else "try fewer tasks with --tasks"
            where = f"task {number + 1} ({shortened(task_id)})"
            raise ConfigError(f"the script {str(self.path)!r} has no turns for {where}: add them, or {other}")
        return [_text(message, codec) for message in found]


def read_script(path: Path) -> Script:
    """Read a script; see the module for its form.

    Raises:
        ConfigError: the file cannot be read, or has another form.
    """
    if path.suffix in (".jsonl", ".ndjson"):
        if not path.is_file():
            raise ConfigError(f"cannot read the script {str(path)!r}: there is no such file")
        content: object = [parse_json(line) for _, line in read_lines(path)]
    else:
        content = read_yaml(path, "script")
    if isinstance(content, Mapping) and content:
        return Script(path, by_id={str(name): _turns(given, path) for name, given in content.items()})
    if isinstance(content, list) and content:
        if all(isinstance(item, list) for item in content):
            return Script(path, by_number=[_turns(item, path) for item in content])
        return Script(path, for_all=_turns(content, path))
    raise ConfigError(f"the script {str(path)!r} holds no turns: {_FORM}")


def _turns(given: object, path: Path) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        found = "an empty list" if given == [] else type(given).__name__
        raise ConfigError(f"the script {str(path)!r} has {found} for a list of turns: {_FORM}")
    return tuple(_turn(item, path) for item in given)


def _turn(item: object, path: Path) -> Message:
    if isinstance(item, str):
        return Message("assistant", (TextPart(item),))
    if (
        isinstance(item, Mapping)
        and isinstance(item.get("call"), str)
        and not set(item) - {"call", "arguments", "text"}
    ):
        arguments, text = item.get("arguments") or {}, item.get("text") or ""
        if isinstance(arguments, Mapping) and isinstance(text, str):
            call = ToolCall("call_1", item["call"], dict(arguments))
            return Message("assistant", (TextPart(text),) if text else (), (call,))
    raise ConfigError(
        f"the script {str(path)!r} has the turn {shortened(repr(item))}: write a text, or "
        "{call: TOOL, arguments: {name: value}}"
    )


def _text(message: Message, codec: ChatCodec | None) -> str:
    if not message.tool_calls:
        return message.text
    call = message.tool_calls[0]
    if codec is not None and call.name in (written := codec.turn_text(message)):
        return written
    # Without a codec, or with a template that writes no calls.
    tagged = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
    return f"{message.text}\n<tool_call>\n{tagged}\n</tool_call>".lstrip()
