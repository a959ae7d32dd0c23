"""`@tool` turns a typed function into a tool that a model can call, with a `ToolResult` of text and images.

The signature is the single source of the tool's JSON schema: hints give types and ranges, a Google-style docstring
gives the descriptions, defaults make arguments optional. The schema is short, because every token of it is in every
prompt: no titles, no null branches of optional arguments, no references.

From Python the decorated function is called as before. Name, description, schema and check of arguments are computed
once, at definition; binding a method to an object costs a microsecond.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, TypedDict, TypeVar, get_type_hints, overload

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, create_model

from agentfly.aio import Stepped, call_in_thread
from agentfly.errors import ConfigError
from agentfly.images import ImageView
from agentfly.tools.arguments import checked_arguments
from agentfly.tools.image_arguments import (
    DESCRIPTION,
    as_id,
    image_results,
    load_images,
    source_handle,
    takes_image,
)

_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns|Yields|Raises|Example|Examples|Note|Notes|Attributes):\s*$")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")
# A number in place of a text is accepted; NaN and infinity are not.
_CONFIG = ConfigDict(extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False, arbitrary_types_allowed=False)


def arguments_model(function: Callable[..., object], name: str) -> type[BaseModel]:
    """Return a pydantic model with one field for each argument of a function, without `self` and `cls`.

    Args:
        function: with type hints, and perhaps a Google-style docstring.
        name: of the tool, for messages.

    Raises:
        ConfigError: an argument has no hint, a hint has no JSON form, or the signature has `*args` or `**kwargs`.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as fault:
        raise ConfigError(f"tool {name!r}: the hint {fault.name!r} must be defined before the tool is") from fault
    words = docstring(function)[1]
    fields: dict[str, Any] = {}
    for index, parameter in enumerate(inspect.signature(function).parameters.values()):
        if index == 0 and parameter.name in ("self", "cls"):
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"tool {name!r}: {parameter} cannot be described to a model; name each argument")
        if parameter.name not in hints:
            raise ConfigError(f"tool {name!r}: argument {parameter.name!r} needs a type hint")
        default = ... if parameter.default is parameter.empty else parameter.default
        said = {"description": words[parameter.name]} if parameter.name in words else {}
        hint = hints[parameter.name]
        if takes_image(hint):
            hint, said = as_id(hint), {"description": words.get(parameter.name, DESCRIPTION)}
        # An alias, because pydantic refuses some field names that are fine as arguments ("json", "_x").
        field = Field(default, alias=parameter.name, **said)  # type: ignore[call-overload]
        fields[f"argument_{parameter.name}"] = (hint, field)
    try:
        return create_model(name, __config__=_CONFIG, **fields)
    except Exception as fault:  # pydantic has no common error for hints it cannot take
        raise ConfigError(f"tool {name!r}: a hint has no JSON form: {fault}") from fault


def parameters_schema(model: type[BaseModel]) -> dict[str, object]:
    """Return the JSON schema of the arguments in the form of OpenAI's `function.parameters`."""
    raw = model.model_json_schema(by_alias=True)
    definitions = raw.pop("$defs", {})
    schema = _tidy(raw, definitions, ())
    return {"type": "object", "properties": schema.get("properties", {}), "required": schema.get("required", [])}


def _tidy(node: Any, definitions: Mapping[str, dict[str, object]], inside: tuple[str, ...]) -> Any:
    """Return a part of a schema without titles, null branches and references."""
    if isinstance(node, list):
        return [_tidy(item, definitions, inside) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = node["$ref"].rpartition("/")[2]
        if target in inside:
            raise ConfigError(f"{target} refers to itself: a tool's arguments must be finite")
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return _tidy({**definitions[target], **rest}, definitions, (*inside, target))
    out: dict[str, object] = {}
    for key, value in node.items():
        if key == "properties":
            out[key] = {name: _tidy(field, definitions, inside) for name, field in value.items()}
        elif key in ("enum", "const", "default", "required", "examples"):
            out[key] = value
        elif key not in ("title", "additionalProperties") or isinstance(value, dict):
            out[key] = _tidy(value, definitions, inside)
    # An optional argument may be left out; saying that it also takes null is not worth the tokens.
    if out.get("default", ...) is None:
        out.pop("default")
    choices = out.pop("anyOf", None)
    if not isinstance(choices, list):
        return out
    kept = [choice for choice in choices if choice != {"type": "null"}]
    return {**kept[0], **out} if len(kept) == 1 else {"anyOf": kept, **out}


def docstring(function: Callable[..., object]) -> tuple[str, dict[str, str]]:
    """Return the text of a Google-style docstring before its first section, and the description of each argument."""
    text = inspect.getdoc(function) or ""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if _SECTION.match(line)]
    description = "\n".join(lines[: starts[0] if starts else len(lines)]).strip()
    for start, end in pairwise([*starts, len(lines)]):
        if lines[start].startswith(("Args", "Arguments", "Parameters")):
            words: dict[str, str] = {}
            name = ""
            for line in textwrap.dedent("\n".join(lines[start + 1 : end])).splitlines():
                match = _ARGUMENT.match(line)
                if match:
                    name, words[match[1]] = match[1], match[2]
                elif name and line.strip():
                    words[name] += f" {line.strip()}"
            return _unwrap(description), {key: _unwrap(value) for key, value in words.items()}
    return _unwrap(description), {}


def _unwrap(text: str) -> str:
    """Return a text with each paragraph on one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


Function = Callable[..., object]
# Of the name of the tool, for messages, and the arguments as the model sent them.
ArgumentCheck = Callable[[str, Mapping[str, object]], dict[str, object]]
F = TypeVar("F", bound=Function)

logger = logging.getLogger(__name__)

_MARK = "__agentfly_tool__"
HELD_SECONDS = 1.0  # that an async tool may keep everything else from running
_BLOCKING: set[str] = set()  # tools that were warned of
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


def percent(share: float) -> str:
    """Return a share, 0 to 1, as all observations say it: 12.5%, and <0.1% for what would be rounded to nothing."""
    return "<0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"


@dataclass(frozen=True)
class Tool:
    """A function in the form that a model sees.

    Attributes:
        name: the name for the model.
        description: the description for the model.
        parameters: JSON schema of the arguments. Shared by all tools of the function: do not change it.
        function: the function, bound to its object.
        check: returns the arguments of a call for the function, or raises `ToolError`; see `ArgumentCheck`.
        final: True if a call ends the chain; such a call waits for the calls before it in the same turn.
        looks: True if the tool only looks: what it makes is to be seen, and never becomes the result of the chain.
        deterministic: True if the same arguments and images always give the same result, which may be cached.
        images: names of the arguments that are images; see `agentfly.tools.image_arguments`.
        view: the images of the chain; a tool that takes or returns images must be bound to them.
    """

    name: str
    description: str
    parameters: Mapping[str, object]
    function: Function = field(repr=False)
    check: ArgumentCheck = field(repr=False)
    final: bool = False
    looks: bool = False
    deterministic: bool = False
    images: tuple[str, ...] = ()
    view: ImageView | None = field(default=None, repr=False)

    async def __call__(self, arguments: Mapping[str, object]) -> ToolResult:
        """Check the arguments and call the function; one that is not async runs in a worker thread.

        Raises:
            ToolError: the arguments are wrong, or the tool refuses.
            ImageError: an id of an image is unknown.
        """
        checked = self.check(self.name, arguments)
        given = checked
        if self.images:
            given = await asyncio.to_thread(load_images, self._bound_view(), self.images, checked)
        if inspect.iscoroutinefunction(self.function):
            steps = Stepped(self.function(**given))
            value = await steps
            if steps.longest > HELD_SECONDS and self.name not in _BLOCKING:
                _BLOCKING.add(self.name)
                logger.warning("%s", held_words(self, steps.longest))
        else:
            value = await call_in_thread(self.function, **given)
        if (made := image_results(value)) is not None:
            value = await asyncio.to_thread(self._keep, *made, checked)
        result = _to_result(self, value)
        return replace(result, final=True) if self.final and not result.final else result

    def _keep(self, words: str, images: list[Image.Image], arguments: Mapping[str, object]) -> ToolResult:
        """Store the images of a result, and name them in its text where its own words do not."""
        view = self._bound_view()
        names = [view.add(image, "view" if self.looks else "img") for image in images]
        handles = tuple(view.handle(name) for name in names)
        text = " ".join([words, *(name for name in names if name not in words)]).strip()
        source = None if self.looks else source_handle(view, self.images, arguments)
        return ToolResult(text, handles, data={} if source is None else {"source": source})

    def _bound_view(self) -> ImageView:
        if self.view is None:
            raise ConfigError(f"tool {self.name!r} takes or returns images: give it to an agent, which has them")
        return self.view

    def schema(self) -> dict[str, Any]:
        """Return the tool in OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


class _Marks(TypedDict):
    """The properties of a tool that its mark says."""

    final: bool
    looks: bool
    deterministic: bool


@overload
def tool(function: F, /) -> F: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    final: bool = False,
    looks: bool = False,
    deterministic: bool = False,
) -> Callable[[F], F]: ...


def tool(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    final: bool = False,
    looks: bool = False,
    deterministic: bool = False,
) -> F | Callable[[F], F]:
    """Mark a function or method, sync or async, as a tool; or a class, whose `__call__` is the tool.

    Args:
        function: the function to mark, when used without parentheses.
        name: the name for the model; the function's own name by default, that of a class in snake case.
        description: the description for the model; the docstring up to its first section by default.
        final: a call ends the chain, and its result is the answer.
        looks: a call only looks. Its images are views unless it names them otherwise, and it is counted as looking.
        deterministic: the same arguments and images always give the same result. The tool cache may keep it, if the
            agent's engines have one. Only for functions: what an object holds would not be part of the key.

    Raises:
        ConfigError: the name, a hint, or the signature cannot be described to a model.
    """
    marks = _Marks(final=final, looks=looks, deterministic=deterministic)

    def mark(function: F) -> F:
        if not isinstance(function, type):
            setattr(function, _MARK, _describe(function, name, description, marks))
            return function
        call = vars(function).get("__call__")
        if not inspect.isfunction(call):
            raise ConfigError(f"{function.__name__} cannot be a tool: it has no __call__; mark its methods instead")
        snake_case = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", function.__name__).lower()
        words = description or docstring(call)[0] or docstring(function)[0]
        setattr(call, _MARK, _describe(call, name or snake_case, words, marks))
        return function

    return mark if function is None else mark(function)


def _describe(function: Function, name: str | None, description: str | None, marks: _Marks) -> Tool:
    name = name or function.__name__
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be a tool name: use 1 to 64 letters, digits, '_' or '-'")
    model = arguments_model(function, name)
    hints = get_type_hints(function)
    images = tuple(key for key in inspect.signature(function).parameters if takes_image(hints.get(key)))
    words = description or docstring(function)[0]
    check = partial(checked_arguments, model)
    if marks["deterministic"] and next(iter(inspect.signature(function).parameters), "") in ("self", "cls"):
        raise ConfigError(
            f"tool {name!r}: only a function can be deterministic, not a method: move it out of its class"
        )
    return Tool(name, words, parameters_schema(model), function, check, images=images, **marks)


def held_words(tool: Tool, seconds: float) -> str:
    """Return the warning of a tool that kept everything else from running.

    Args:
        tool: of an async function.
        seconds: for which it did not give way.
    """
    return (
        f"tool {tool.name!r}{_place(tool)} held the event loop for {seconds:.1f} s, in which no other chain went on: "
        "write it as a plain def, which runs in a thread of its own, or await what takes long"
    )


def _place(tool: Tool) -> str:
    """Return file and line of the function of a tool for a message, "" where they are not known."""
    code = getattr(inspect.unwrap(tool.function), "__code__", None)
    return "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"


def tool_of(function: object) -> Tool | None:
    """Return the tool of a marked function, method, static or class method; None for one without a mark."""
    inner = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
    found = getattr(inner, _MARK, None)
    return found if isinstance(found, Tool) else None


def bound(tool: Tool, function: Function) -> Tool:
    """Return the same tool that calls `function`, a bound method."""
    return replace(tool, function=function)


def _to_result(tool: Tool, value: object) -> ToolResult:
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
        raise TypeError(
            f"tool {tool.name!r}{_place(tool)} returned {type(value).__name__}: return text, JSON, a ToolResult, "
            "images, or a text and then images"
        ) from fault
    return ToolResult(text, data=value if isinstance(value, dict) else {})
