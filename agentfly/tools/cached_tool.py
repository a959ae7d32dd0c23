"""Tools of a person's own behind the tool cache: `@tool(deterministic=True)`.

The key covers the arguments, the pixels of the images, and the file that the function is in. What the function reads
from elsewhere, a model or another module, is not part of it: change the function's file, or the cache's folder, when
that changes.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, update_wrapper
from pathlib import Path

from PIL import Image
from pydantic_core import to_jsonable_python

from agentfly.aio import call_in_thread
from agentfly.errors import ConfigError
from agentfly.tools.decorator import Function, Tool, ToolResult
from agentfly.tools.image_arguments import image_results
from agentfly.vision.cached_engines import CacheFront
from agentfly.vision.tool_cache import Entry

_CALLED = "__agentfly_called__"  # of a function that looks into the cache: the one behind it


def behind_cache(tool: Tool, front: CacheFront) -> Tool:
    """Return a deterministic tool whose results are taken from the cache; any other tool as it is."""
    if not tool.deterministic:
        return tool
    operation = f"tool {version_of(tool.function)}"

    async def call(**given: object) -> object:
        images = {name: value for name, value in given.items() if isinstance(value, Image.Image)}
        others = {name: value for name, value in given.items() if name not in images}
        parameters = {"images": list(images), **to_jsonable_python(others)}

        async def make() -> Entry:
            return to_entry(tool.name, await call_function(tool.function, given))

        return await front.through(tool.name, operation, parameters, list(images.values()), make, from_entry)

    setattr(call, _CALLED, tool.function)
    update_wrapper(call, tool.function, assigned=(), updated=())  # messages name the person's own file and line
    return replace(tool, function=call)


def without_cache(tool: Tool) -> Tool:
    """Return a tool of `behind_cache` as it was before it; any other tool as it is."""
    function = getattr(tool.function, _CALLED, None)
    return tool if function is None else replace(tool, function=function)


async def call_function(function: Function, arguments: Mapping[str, object]) -> object:
    """Return the value of a function; one that is not async runs in a worker thread."""
    if inspect.iscoroutinefunction(function):
        value: object = await function(**arguments)
        return value
    return await call_in_thread(function, **arguments)


def to_entry(name: str, value: object) -> Entry:
    """Return the value of a tool as an entry of the cache.

    Raises:
        ConfigError: it has handles of images, which belong to one chain.
    """
    if (made := image_results(value)) is not None:
        return Entry(tuple(made[1]), {"words": made[0]})
    if isinstance(value, ToolResult) and value.images:
        raise ConfigError(f"the deterministic tool {name!r} returns images of one chain: return the images themselves")
    plain = {"text": value.text, "data": dict(value.data)} if isinstance(value, ToolResult) else value
    return Entry((), {"result" if isinstance(value, ToolResult) else "value": to_jsonable_python(plain)})


def from_entry(entry: Entry) -> object:
    """Return the value of an entry, as the tool gave it."""
    if entry.images:
        return (str(entry.data["words"]), *entry.images)
    if "result" in entry.data:
        return ToolResult(**entry.data["result"])
    return entry.data["value"]


@cache
def version_of(function: Function) -> str:
    """Return a hash of the file that a function is in, and of its name."""
    inner = inspect.unwrap(function)
    source = inspect.getsourcefile(inner)
    content = Path(source).read_bytes() if source is not None and Path(source).is_file() else b""
    named = f"{inner.__module__}:{inner.__qualname__}".encode()
    return hashlib.sha256(content + named).hexdigest()[:16]
