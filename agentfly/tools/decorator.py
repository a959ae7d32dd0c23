"""`@tool` turns a typed function into a tool that a model can call.

The decorated function is called from Python as before. What the model needs (name, description, schema, check of
arguments) is computed once, at definition; binding a method to an object costs a microsecond.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from agentfly.errors import ConfigError
from agentfly.tools.base import ToolResult
from agentfly.tools.schema import arguments_model, checked_arguments, docstring, parameters_schema

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__agentfly_tool__"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Tool:
    """A function as the model sees it.

    Attributes:
        name: what the model calls it.
        description: what it does, in words for the model.
        parameters: JSON schema of the arguments. Shared by all tools of the function: do not change it.
        function: what is called, bound to its object.
        model: pydantic model of the arguments.
        final: a call of it ends the chain; it waits for the calls before it in the same turn.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any] = field(repr=False)
    model: type[BaseModel] = field(repr=False)
    final: bool = False

    async def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Check the arguments and carry the call out; a function that is not async runs in a worker thread.

        Raises:
            ToolError: wrong arguments, or the tool's own refusal.
        """
        checked = checked_arguments(self.model, self.name, arguments)
        if inspect.iscoroutinefunction(self.function):
            value = await self.function(**checked)
        else:
            value = await asyncio.to_thread(self.function, **checked)
        result = _result(self.name, value)
        return replace(result, final=True) if self.final and not result.final else result

    def schema(self) -> dict[str, Any]:
        """The tool in OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@overload
def tool(function: F, /) -> F: ...


@overload
def tool(*, name: str | None = None, description: str | None = None, final: bool = False) -> Callable[[F], F]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    final: bool = False,
) -> Any:
    """Mark a function or method, sync or async, as a tool; or a class, whose `__call__` is the tool.

    Args:
        function: what to mark, when used without parentheses.
        name: what the model calls it; the function's own name by default, that of a class in snake case.
        description: what the model reads; the docstring up to its first section by default.
        final: a call of it ends the chain: what it gives is the answer.

    Raises:
        ConfigError: the name, a hint, or the signature cannot be given to a model.
    """

    def mark(function: F) -> F:
        if isinstance(function, type):
            _mark_class(function, name, description, final)
        else:
            setattr(function, _MARK, _describe(function, name, description, final))
        return function

    return mark if function is None else mark(function)


def _describe(function: Callable[..., Any], name: str | None, description: str | None, final: bool) -> Tool:
    name = name or function.__name__
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be a tool name: use 1 to 64 letters, digits, '_' or '-'")
    model = arguments_model(function, name)
    return Tool(name, description or docstring(function)[0], parameters_schema(model), function, model, final)


def _mark_class(owner: type, name: str | None, description: str | None, final: bool) -> None:
    call = vars(owner).get("__call__")
    if not inspect.isfunction(call):
        raise ConfigError(f"{owner.__name__} cannot be a tool: it has no __call__; mark its methods instead")
    name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", owner.__name__).lower()
    words = description or docstring(call)[0] or docstring(owner)[0]
    setattr(call, _MARK, _describe(call, name, words, final))


def tool_of(function: object) -> Tool | None:
    """The tool that a function, method, static or class method was marked as; None when it was not."""
    inner = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
    found = getattr(inner, _MARK, None)
    return found if isinstance(found, Tool) else None


def bound(tool: Tool, function: Callable[..., Any]) -> Tool:
    """The same tool, calling `function` (a bound method)."""
    return replace(tool, function=function)


def _result(name: str, value: Any) -> ToolResult:
    if isinstance(value, ToolResult):
        return value
    if value is None:
        return ToolResult("done")
    if isinstance(value, str):
        return ToolResult(value)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as fault:
        raise TypeError(f"tool {name!r} returned {type(value).__name__}: return a ToolResult, text or JSON") from fault
    return ToolResult(text, data=value if isinstance(value, dict) else {})
