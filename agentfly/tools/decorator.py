"""`@tool` turns a typed function into a tool that a model can call, with a `ToolResult` of text and images.

From Python the decorated function is called as before. Name, description, schema and check of arguments are computed
once, at definition; binding a method to an object costs a microsecond.
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
from agentfly.tools.schema import arguments_model, checked_arguments, docstring, parameters_schema

Function = Callable[..., object]
F = TypeVar("F", bound=Function)

_MARK = "__agentfly_tool__"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class ToolResult:
    """The observation that a tool returns to the model.

    Attributes:
        text: the observation in words; it names every image of `images`.
        images: handles of the images that the model should see, in the order they are named.
        engine: the engine that did the work ("classical", a model name, ...); empty where none is involved.
        final: True if the agent is done with this call (`give_answer`); `images[-1]`, if any, is its answer.
        data: machine-readable details (boxes, scores, parameters used), JSON-able.
        ids: short names of `images`, where a person called the tool; a model reads them in the text.
    """

    text: str
    images: tuple[str, ...] = ()
    engine: str = ""
    final: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tool:
    """A function in the form that a model sees.

    Attributes:
        name: the name for the model.
        description: the description for the model.
        parameters: JSON schema of the arguments. Shared by all tools of the function: do not change it.
        function: the function, bound to its object.
        model: pydantic model of the arguments.
        final: True if a call ends the chain; such a call waits for the calls before it in the same turn.
    """

    name: str
    description: str
    parameters: Mapping[str, object]
    function: Function = field(repr=False)
    model: type[BaseModel] = field(repr=False)
    final: bool = False

    async def __call__(self, arguments: Mapping[str, object]) -> ToolResult:
        """Check the arguments and call the function; one that is not async runs in a worker thread.

        Raises:
            ToolError: the arguments are wrong, or the tool refuses.
        """
        checked = checked_arguments(self.model, self.name, arguments)
        if inspect.iscoroutinefunction(self.function):
            value = await self.function(**checked)
        else:
            value = await asyncio.to_thread(self.function, **checked)
        result = _to_result(self.name, value)
        return replace(result, final=True) if self.final and not result.final else result

    def schema(self) -> dict[str, Any]:
        """Return the tool in OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@overload
def tool(function: F, /) -> F: ...


@overload
def tool(*, name: str | None = None, description: str | None = None, final: bool = False) -> Callable[[F], F]: ...


def tool(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    final: bool = False,
) -> F | Callable[[F], F]:
    """Mark a function or method, sync or async, as a tool; or a class, whose `__call__` is the tool.

    Args:
        function: the function to mark, when used without parentheses.
        name: the name for the model; the function's own name by default, that of a class in snake case.
        description: the description for the model; the docstring up to its first section by default.
        final: a call ends the chain, and its result is the answer.

    Raises:
        ConfigError: the name, a hint, or the signature cannot be described to a model.
    """

    def mark(function: F) -> F:
        if not isinstance(function, type):
            setattr(function, _MARK, _describe(function, name, description, final))
            return function
        call = vars(function).get("__call__")
        if not inspect.isfunction(call):
            raise ConfigError(f"{function.__name__} cannot be a tool: it has no __call__; mark its methods instead")
        snake_case = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", function.__name__).lower()
        words = description or docstring(call)[0] or docstring(function)[0]
        setattr(call, _MARK, _describe(call, name or snake_case, words, final))
        return function

    return mark if function is None else mark(function)


def _describe(function: Function, name: str | None, description: str | None, final: bool) -> Tool:
    name = name or function.__name__
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be a tool name: use 1 to 64 letters, digits, '_' or '-'")
    model = arguments_model(function, name)
    return Tool(name, description or docstring(function)[0], parameters_schema(model), function, model, final)


def tool_of(function: object) -> Tool | None:
    """Return the tool of a marked function, method, static or class method; None for one without a mark."""
    inner = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
    found = getattr(inner, _MARK, None)
    return found if isinstance(found, Tool) else None


def bound(tool: Tool, function: Function) -> Tool:
    """Return the same tool that calls `function`, a bound method."""
    return replace(tool, function=function)


def _to_result(name: str, value: object) -> ToolResult:
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
