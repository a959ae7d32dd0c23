"""Make the tools that users give to an agent (functions, objects and classes) ready for one chain."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from agentfly.errors import ConfigError
from agentfly.images import ImageView
from agentfly.tools import Tool, Toolset

if TYPE_CHECKING:
    from agentfly.agents.agent import Agent

GivenTool = Tool | Callable[..., Any] | object


def method_tools(agent: Agent, view: ImageView) -> Iterator[Tool]:
    """The `@tool` methods of an agent, on a copy of it for the chain: its `images` and `store` are the chain's.

    Attributes that such a method sets stay in the chain; objects that the agent holds are shared.
    """
    own = copy.copy(agent)
    own.images, own.store = view, view.store
    yield from Toolset.of(own)


def given_tools(given: Sequence[GivenTool], view: ImageView) -> Iterator[Tool]:
    """The tools that were passed as `tools=`, for one chain.

    A marked function is used as it is, an object gives its marked methods, and of a class each chain gets an object of
    its own; if its constructor has an argument `images`, that is the chain's images.

    Raises:
        ConfigError: something among them is no tool.
    """
    for item in given:
        if isinstance(item, type):
            takes = "images" in inspect.signature(item.__init__).parameters  # type: ignore[misc]
            found = Toolset.of(item(images=view) if takes else item())
        elif isinstance(item, Tool) or inspect.isroutine(item):
            found = Toolset([item])
        else:
            found = Toolset.of(item)
        if not len(found):
            raise ConfigError(f"tools: {item!r} is no tool; mark a function, or methods of a class, with @tool")
        yield from found
