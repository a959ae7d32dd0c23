"""Tools that users give to an agent: functions, objects, classes, and methods of the agent's own class."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from agentfly.errors import ConfigError
from agentfly.images import ImageStore, ImageView
from agentfly.tools import Tool, Toolset

GivenTool = Tool | Callable[..., object] | object


class HasImages(Protocol):
    """An object that knows images, such as an agent."""

    images: ImageView
    store: ImageStore


def method_tools(agent: HasImages, view: ImageView) -> Iterator[Tool]:
    """Yield the `@tool` methods of an agent, bound to a copy of it for one chain.

    `images` and `store` of the copy are the chain's. Attributes that a method sets stay in the chain. Objects that the
    agent holds are shared by all chains.
    """
    own = copy.copy(agent)
    own.images, own.store = view, view.store
    yield from Toolset.of(own)


def given_tools(given: Sequence[GivenTool], view: ImageView) -> Iterator[Tool]:
    """Yield the tools of the argument `tools=` for one chain.

    A marked function is used as it is. An object gives its marked methods. Of a class each chain gets an object of its
    own; a constructor that has an argument `images` gets the chain's images.

    Args:
        given: as the user passed them.
        view: the images of the chain.

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
