"""The tools of one chain: looked up by name, described to the model, carried out within a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from agentfly.errors import ConfigError, ToolError, unknown_name
from agentfly.messages import ToolCall
from agentfly.tools.base import ToolResult
from agentfly.tools.decorator import Tool, bound, tool_of


class Toolset:
    """Tools with unique names, in order. Cheap: what is costly was done when the functions were marked.

    Args:
        tools: tools, or functions and bound methods marked with `@tool`.

    Raises:
        ConfigError: a function without the mark, or a name used twice.
    """

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for given in tools:
            tool = given if isinstance(given, Tool) else _bind(given)
            if tool.name in self._tools:
                raise ConfigError(f"two tools are named {tool.name!r}: rename one with @tool(name=...)")
            self._tools[tool.name] = tool

    @classmethod
    def of(cls, owner: object) -> Toolset:
        """The marked methods of an object, bound to it, in the order in which they are defined."""
        return cls(bound(tool, getattr(owner, attribute)) for attribute, tool in _marked(type(owner)))

    def only(self, names: Iterable[str]) -> Toolset:
        """The tools of these names, and those that end a chain, in the order they have here.

        Raises:
            ConfigError: there is no tool of a name.
        """
        wanted = set(names)
        for name in wanted - self._tools.keys():
            raise ConfigError(unknown_name("tool", name, self._tools))
        return Toolset(tool for tool in self if tool.name in wanted or tool.final)

    def schemas(self) -> list[dict[str, Any]]:
        """The tools in OpenAI's form, for a chat request or a chat template."""
        return [tool.schema() for tool in self._tools.values()]

    async def execute(self, call: ToolCall, timeout: float | None = None) -> ToolResult:
        """Carry out one call.

        A tool that is not async cannot be stopped: past the time limit its thread goes on, and its result is dropped.

        Args:
            call: what the model asked for.
            timeout: seconds; None waits.

        Raises:
            ToolError: the call could not be parsed, no such tool, wrong arguments, too slow, or the tool refused.
            ImageError: an image could not be used.
        """
        if call.error is not None:
            raise ToolError(call.error)
        tool = self._tools.get(call.name)
        if tool is None:
            raise ToolError(unknown_name("tool", call.name, self._tools))
        work = asyncio.ensure_future(tool(call.arguments))
        try:
            # Not `wait_for`: a TimeoutError of the tool's own must stay apart from the limit.
            await asyncio.wait({work}, timeout=timeout)
            if work.cancelled():
                raise ToolError(f"{call.name} was cancelled before it was done; try again")
            if work.done():
                return work.result()
        finally:
            work.cancel()
        raise ToolError(f"{call.name} timed out after {timeout:g} s; try a smaller request or another tool")

    def get(self, name: str) -> Tool | None:
        """The tool of a name, None when there is none."""
        return self._tools.get(name)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools


def _bind(function: Callable[..., Any]) -> Tool:
    tool = tool_of(function)
    if tool is None:
        raise ConfigError(f"{function!r} is not a tool: mark it with @tool")
    return bound(tool, function)


_Marked = tuple[tuple[str, Tool], ...]
_known: WeakKeyDictionary[type, _Marked] = WeakKeyDictionary()


def _marked(owner: type) -> _Marked:
    """Marked attributes of a class, base classes first; what a subclass replaces keeps its place."""
    if owner not in _known:
        _known[owner] = _find_marked(owner)
    return _known[owner]


def _find_marked(owner: type) -> _Marked:
    names = dict.fromkeys(name for base in reversed(owner.__mro__) for name in vars(base))
    found = ((name, _attribute(owner, name)) for name in names)
    return tuple((name, tool) for name, tool in found if tool is not None)


def _attribute(owner: type, name: str) -> Tool | None:
    return next((tool_of(vars(base)[name]) for base in owner.__mro__ if name in vars(base)), None)
