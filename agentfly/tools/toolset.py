"""The tools of one chain: looked up by name, described to the model, executed within a time limit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from agentfly.aio import CancelledItself, TimeLimitExceeded, with_timeout
from agentfly.errors import ConfigError, ToolError, unknown_name
from agentfly.messages import ToolCall
from agentfly.tools.decorator import Function, Tool, ToolResult, bound, tool_of

# Names and tools of the marked methods of a class.
_known: WeakKeyDictionary[type, tuple[tuple[str, Tool], ...]] = WeakKeyDictionary()


class Toolset:
    """Tools with unique names, in order. Cheap to make: the costly work was done when the functions were marked.

    Args:
        tools: tools, or functions and bound methods marked with `@tool`.

    Raises:
        ConfigError: a function without the mark, or a name used twice.
    """

    def __init__(self, tools: Iterable[Tool | Function] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for given in tools:
            if isinstance(given, Tool):
                tool = given
            elif (marked := tool_of(given)) is not None:
                tool = bound(marked, given)
            else:
                raise ConfigError(f"{given!r} is not a tool: mark it with @tool")
            if tool.name in self._tools:
                raise ConfigError(f"two tools are named {tool.name!r}: rename one with @tool(name=...)")
            self._tools[tool.name] = tool

    @classmethod
    def of(cls, owner: object) -> Toolset:
        """Return the marked methods of an object, bound to it, in the order of their definition."""
        kind = type(owner)
        if kind not in _known:
            # Base classes first; a method that a subclass replaces keeps its place.
            attributes: dict[str, object] = {}
            for base in reversed(kind.__mro__):
                attributes |= vars(base)
            found = ((name, tool_of(attribute)) for name, attribute in attributes.items())
            _known[kind] = tuple((name, tool) for name, tool in found if tool is not None)
        return cls(bound(tool, getattr(owner, attribute)) for attribute, tool in _known[kind])

    def schemas(self) -> list[dict[str, Any]]:
        """Return the tools in OpenAI's form, for a chat request or a chat template."""
        return [tool.schema() for tool in self._tools.values()]

    async def execute(self, call: ToolCall, timeout: float | None = None) -> ToolResult:
        """Execute one call.

        A tool that is not async cannot be stopped: past the time limit its thread goes on, and its result is dropped.

        Args:
            call: the model's call.
            timeout: seconds; None waits without limit.

        Raises:
            ToolError: the call could not be parsed, no such tool, wrong arguments, too slow, or the tool refused.
            ImageError: an image could not be used.
        """
        if call.error is not None:
            raise ToolError(call.error)
        tool = self._tools.get(call.name)
        if tool is None:
            raise ToolError(unknown_name("tool", call.name, self._tools))
        try:
            return await with_timeout(tool(call.arguments), math.inf if timeout is None else timeout)
        except CancelledItself:
            raise ToolError(f"{call.name} was cancelled before it was done; try again") from None
        except TimeLimitExceeded:
            raise ToolError(
                f"{call.name} timed out after {timeout:g} s; try a smaller request or another tool"
            ) from None

    def get(self, name: str) -> Tool | None:
        """Return the tool of a name; None where there is none."""
        return self._tools.get(name)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools
