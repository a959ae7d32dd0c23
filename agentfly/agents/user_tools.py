"""The value of `tools`: which tools a chain has, from names, groups and what people write themselves.

It means the same in Python, in a recipe and on the command line. A list of

    "zoom", "detect_objects"                names of tools: these of the agent's own, or of a group
    "edit", "look", "retouch", "compose"    groups; "own" is everything that the agent has without `tools`
    "my_project.tools:brighten"             a function with `@tool`, a class, an object with `@tool` methods, or a list
    {"tool": "my_project.tools:Stamp", "size": 3}      the same with arguments
    {"mcp": "http://localhost:8000/mcp"}    a server of the Model Context Protocol; see `agentfly.tools.mcp.McpServer`
    {"mcp": ["uvx", "some-server"], "prefix": "x_"}    one that is a program, and is started

and, in Python, of the objects themselves. Names and groups choose; everything else is added. Without a name or a group
the agent keeps all of its own tools. A tool that ends a chain (`give_answer`) always stays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from agentfly.errors import ConfigError, unknown_name
from agentfly.images import ImageStore, ImageView
from agentfly.importing import import_object
from agentfly.tools import Tool, Toolset
from agentfly.tools.cached_tool import behind_cache
from agentfly.tools.groups import GROUPS, group_class, group_of, names_in
from agentfly.tools.mcp import McpServer, McpTools
from agentfly.tools.source import ToolSource
from agentfly.vision import Engines
from agentfly.vision.cached_engines import cache_front

GivenTool = str | Mapping[str, object] | Tool | Callable[..., object] | object
OWN = "own"


@dataclass(frozen=True)
class ToolChoice:
    """A value of `tools`, with everything imported.

    Attributes:
        names: of single tools that are chosen.
        groups: that are chosen.
        added: functions, classes, objects and sources.
        own_sources: the sources among them that were made for this choice.
    """

    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    added: tuple[GivenTool, ...] = ()
    own_sources: tuple[ToolSource, ...] = ()

    @classmethod
    def of(cls, given: Sequence[GivenTool]) -> ToolChoice:
        """Read a value of `tools`.

        Raises:
            ConfigError: something among them is no tool, or cannot be imported.
        """
        names: list[str] = []
        groups: list[str] = []
        added: list[GivenTool] = []
        for item in given:
            if isinstance(item, str) and ":" not in item:
                (groups if item in GROUPS or item == OWN else names).append(item)
            else:
                added += _imported(item)
        own = [item for item in added if isinstance(item, ToolSource) and not any(item is one for one in given)]
        choice = cls(tuple(names), tuple(groups), tuple(added), tuple(own))
        Toolset(choice.added_tools(ImageView(ImageStore()), None))  # raises now what would else fail every chain
        return choice

    @property
    def sources(self) -> tuple[ToolSource, ...]:
        """The sources among what is added, whose tools are known once they are prepared."""
        return tuple(item for item in self.added if isinstance(item, ToolSource))

    def check_ready(self) -> None:
        """Raise `ConfigError` unless all sources are prepared."""
        for source in self.sources:
            if not source.ready:
                raise ConfigError(f"the tools of {source.label} are not known yet: await agent.prepare() first")

    def tools(self, own: Toolset, view: ImageView, engines: Engines | None) -> Toolset:
        """Return the tools of one chain.

        Args:
            own: those that the agent has without any choice, bound to `view`.
            view: the images of the chain.
            engines: for groups that work with engines; the embedded ones when None.

        Raises:
            ConfigError: there is no tool of a name, or two have one name.
        """
        found = list(own)
        if self.names or self.groups:
            found = [tool for tool in own if tool.final or tool.name in self.names or self._in_group(tool)]
            found += self._from_groups(own, view, engines)
        front = None if engines is None else cache_front(engines)
        added = self.added_tools(view, engines)
        return Toolset([*found, *(added if front is None else (behind_cache(tool, front) for tool in added))])

    def added_tools(self, view: ImageView, engines: Engines | None) -> Iterator[Tool]:
        """Yield the tools that are added, bound to the images of a chain; none of a source that is not prepared."""
        for item in self.added:
            if isinstance(item, ToolSource):
                yield from item.tools(view) if item.ready else ()
                continue
            tools = _bound(item, view, engines)
            if not tools:
                raise ConfigError(f"tools: {item!r} is no tool; mark a function, or methods of a class, with @tool")
            yield from tools

    def _in_group(self, tool: Tool) -> bool:
        return OWN in self.groups or group_of(tool.name) in self.groups

    def _from_groups(self, own: Toolset, view: ImageView, engines: Engines | None) -> Iterator[Tool]:
        """Yield chosen tools of groups that the agent does not have by itself, in the order of the groups."""
        single = {name: group_of(name) for name in self.names if name not in own}
        if missing := next((name for name, group in single.items() if group is None), None):
            known = {*(tool.name for tool in own), *GROUPS, OWN}.union(
                *(names_in(group_class(name)) for name in GROUPS)
            )
            raise ConfigError(f"{unknown_name('tool', missing, known)}, or module:name of your own")
        for group in GROUPS:
            names = {name for name, home in single.items() if home == group}
            if not names and group not in self.groups:
                continue
            for tool in Toolset.of(_made(group_class(group), view, engines)):
                if tool.name not in own and (group in self.groups or tool.name in names):
                    yield replace(tool, view=view)


def _imported(item: GivenTool) -> list[GivenTool]:
    """Return the tools that an item stands for; a name imports one, or a list of them."""
    if isinstance(item, str):
        found = import_object(item, "tool")
        return list(found) if isinstance(found, (list, tuple)) else [found]
    if isinstance(item, McpServer):
        return [McpTools(item)]
    if not isinstance(item, Mapping):
        return [item]
    options = dict(item)
    if "mcp" in options:
        return [McpTools(McpServer.read(options))]
    address = options.pop("tool", None)
    if not isinstance(address, str):
        raise ConfigError('a tool with arguments is written {"tool": "module:name", ...}, a server {"mcp": "http://…"}')
    found = import_object(address, "tool")
    if not callable(found):
        raise ConfigError(f"tool {address!r} takes no arguments: it is {type(found).__name__}")
    return [_Prepared(address, found, options)]


@dataclass(frozen=True)
class _Prepared:
    """A class or a function that makes tools, with its arguments."""

    address: str
    maker: Callable[..., object]
    options: Mapping[str, object]


def _bound(item: GivenTool, view: ImageView, engines: Engines | None) -> list[Tool]:
    """Return the tools of one item, for one chain.

    A marked function is used as it is. An object gives its marked methods. Of a class each chain gets an object of its
    own; a constructor that has an argument `images` gets the chain's images, one that has `engines` the engines.
    """
    owner: object = item
    if isinstance(item, _Prepared):
        try:
            owner = _made(item.maker, view, engines, item.options)
        except TypeError as fault:
            raise ConfigError(f"tool {item.address!r}: {fault}") from fault
    elif isinstance(item, type):
        owner = _made(item, view, engines)
    tools = Toolset([owner]) if isinstance(owner, Tool) or inspect.isroutine(owner) else Toolset.of(owner)
    return [replace(tool, view=view) for tool in tools]


def _made(
    maker: Callable[..., object], view: ImageView, engines: Engines | None, options: Mapping[str, object] | None = None
) -> object:
    # Of `__init__` itself: types that are written in C have no signature of their own.
    parameters = inspect.signature(maker.__init__ if isinstance(maker, type) else maker).parameters  # type: ignore[misc]
    arguments = dict(options or {})
    if "images" in parameters:
        arguments["images"] = view
    if "engines" in parameters:
        arguments["engines"] = engines or _embedded()
    return maker(**arguments)


def _embedded() -> Engines:
    # OpenCV is loaded with the first tool that needs it, not with the package.
    from agentfly.vision.classical import classical_engines

    return classical_engines()
