"""Groups of tools by name. A group is a class with `@tool` methods on the images of one chain."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from agentfly.errors import ConfigError, unknown_name
from agentfly.importing import import_object
from agentfly.tools.decorator import Tool, tool_of

GROUPS: Mapping[str, str] = {
    "edit": "agentfly.tools.image_tools:ImageTools",
    "look": "agentfly.tools.look_tools:LookTools",
    "retouch": "agentfly.tools.retouch_tools:RetouchTools",
    "compose": "agentfly.tools.compose_tools:ComposeTools",
}


def group_class(name: str) -> type:
    """Return the class of a group; its constructor takes `images` and perhaps `engines`.

    Raises:
        ConfigError: there is no such group.
    """
    if name not in GROUPS:
        raise ConfigError(unknown_name("group of tools", name, GROUPS))
    found = import_object(GROUPS[name], "group of tools")
    assert isinstance(found, type)
    return found


@cache
def names_in(kind: type) -> frozenset[str]:
    """Return the names of the tools that the methods of a class are."""
    found = (tool_of(attribute) for base in kind.__mro__ for attribute in vars(base).values())
    return frozenset(tool.name for tool in found if isinstance(tool, Tool))


def group_of(tool: str) -> str | None:
    """Return the name of the group that has a tool of this name, None for none."""
    return next((name for name in GROUPS if tool in names_in(group_class(name))), None)
