"""Call each tool that a person wrote once, on a sample image, before a run does it a thousand times.

The arguments are made from the schema: ids of the sample where an image is asked for, the first choice of several, the
middle of a range, else the example or the plainest value. So a tool may well refuse the call; that is no fault.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from agentfly.agents.agent import Agent
from agentfly.aio import Stepped
from agentfly.errors import ImageError, ToolError, shortened
from agentfly.images import ImageStore, ImageView
from agentfly.importing import described
from agentfly.messages import ToolCall
from agentfly.tools import Tool, ToolResult, Toolset
from agentfly.tools.cached_tool import without_cache
from agentfly.tools.decorator import HELD_SECONDS, held_words

SAMPLE_SIDE = 64


@dataclass(frozen=True)
class ToolTrial:
    """One call of one tool.

    Attributes:
        tool: its name.
        seconds: of the call.
        outcome: the observation, shortened.
        fault: the reason why a run would suffer, with the person's file and line; None for none.
    """

    tool: str
    seconds: float
    outcome: str
    fault: str | None = None


async def try_tools(agent: Agent, timeout: float) -> list[ToolTrial]:
    """Call each tool of an agent that is not part of this package.

    Args:
        agent: as the run would make it.
        timeout: seconds for a call.
    """
    view = ImageView(ImageStore())
    x, y = np.meshgrid(np.arange(SAMPLE_SIDE), np.arange(SAMPLE_SIDE))
    view.add(Image.fromarray(np.stack([4 * x, 4 * y, 128 + 0 * x], axis=-1).astype(np.uint8)))
    view.add(Image.fromarray(np.where(x < SAMPLE_SIDE // 2, 255, 0).astype(np.uint8)), "mask")
    # What a cache holds tells nothing of the function.
    tools = [without_cache(tool) for tool in agent.tools_for(view)]
    return [await _try(tool, view, timeout) for tool in tools if is_own(tool)]


def is_own(tool: Tool) -> bool:
    """Return True for a tool whose function is not part of this package."""
    return not str(getattr(inspect.unwrap(tool.function), "__module__", "")).startswith("agentfly.")


async def _try(tool: Tool, view: ImageView, timeout: float) -> ToolTrial:
    arguments, held = sample_arguments(tool, view), [0.0]
    began = time.monotonic()

    def trial(outcome: str, fault: str | None = None) -> ToolTrial:
        return ToolTrial(tool.name, time.monotonic() - began, shortened(outcome), fault)

    try:
        result = await Toolset([_timed(tool, held)]).execute(ToolCall("trial", tool.name, arguments), timeout)
    except (ToolError, ImageError) as fault:
        return trial(f"refused: {fault}", held_words(tool, held[0]) if held[0] > HELD_SECONDS else None)
    except Exception as fault:  # anybody's code
        return trial("failed", f"tool {tool.name!r} failed on {json.dumps(arguments)}: {described(fault)}")
    if held[0] > HELD_SECONDS:
        return trial(result.text, held_words(tool, held[0]))
    wrong = _unwritable(tool, result) or _unnamed(tool, result, view)
    if tool.deterministic and wrong is None:
        wrong = await _unsteady(tool, arguments, result, timeout)
    return trial(result.text, wrong)


async def _unsteady(tool: Tool, arguments: Mapping[str, object], first: ToolResult, timeout: float) -> str | None:
    """Call a deterministic tool again and compare; an equal image has the same name in a view."""
    try:
        second = await Toolset([tool]).execute(ToolCall("again", tool.name, arguments), timeout)
    except Exception as fault:  # anybody's code
        return f"tool {tool.name!r} failed on a second call with {json.dumps(dict(arguments))}: {described(fault)}"
    if (second.text, second.images) == (first.text, first.images):
        return None
    return f"tool {tool.name!r} is marked as deterministic, and gave two results for {json.dumps(dict(arguments))}"


def _timed(tool: Tool, held: list[float]) -> Tool:
    """Return an async tool that notes how long it kept everything else from running; others as they are."""
    if not inspect.iscoroutinefunction(tool.function):
        return tool
    function: Callable[..., Any] = tool.function

    async def call(**arguments: object) -> object:
        steps = Stepped(function(**arguments))
        try:
            return await steps
        finally:
            held[0] = max(held[0], steps.longest)

    return replace(tool, function=call)


def _unwritable(tool: Tool, result: ToolResult) -> str | None:
    try:
        json.dumps(dict(result.data), allow_nan=False)
    except (TypeError, ValueError) as fault:
        return f"tool {tool.name!r}: ToolResult.data is written as JSON, and cannot be: {fault}"
    return None


def _unnamed(tool: Tool, result: ToolResult, view: ImageView) -> str | None:
    missing = [handle for handle in result.images if handle not in view.store]
    if not missing:
        return None
    return (
        f"tool {tool.name!r} returns {missing[0]!r}, which is no image of the chain: add it with self.images.add(…) "
        "or return the image itself"
    )


def sample_arguments(tool: Tool, view: ImageView) -> dict[str, object]:
    """Return arguments for the required parameters of a tool.

    Args:
        tool: any.
        view: names that stand for an image and for a mask.
    """
    properties = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", [])
    assert isinstance(properties, Mapping)
    assert isinstance(required, list)
    return {name: _sample(name, properties[name], tool, view) for name in required}


def _sample(name: str, schema: Mapping[str, Any], tool: Tool, view: ImageView) -> object:
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    if "const" in schema:
        return schema["const"]
    if "anyOf" in schema:
        return _sample(name, schema["anyOf"][0], tool, view)
    kind = schema.get("type", "string")
    if kind == "string":
        named = [known for known in view if known.startswith("mask" if "mask" in name else "img")]
        about_image = name in tool.images or "image" in name or "mask" in name
        return named[0] if about_image else "x" * max(1, int(schema.get("minLength", 1)))
    if kind in ("number", "integer"):
        return _middle(schema, whole=kind == "integer")
    if kind == "array":
        return [_sample(name, schema.get("items", {}), tool, view)] * int(schema.get("minItems", 1))
    if kind == "object":
        fields = schema.get("properties", {})
        return {key: _sample(key, fields[key], tool, view) for key in schema.get("required", [])}
    return {"boolean": False, "null": None}.get(str(kind))


def _middle(schema: Mapping[str, Any], *, whole: bool) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None or high is None:
        number = low + 1 if low is not None else high - 1 if high is not None else 1
    else:
        number = (low + high) / 2
    return int(number) if whole else float(number)
