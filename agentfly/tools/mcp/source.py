"""The tools of one foreign server for all chains of an agent, on one connection.

The connection is opened when it is needed, belongs to one event loop and process, and is opened again after the server
ended. So settings of a server can travel to other processes, and connections do not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from agentfly.aio import LoopLocal
from agentfly.errors import ConfigError, ToolOutage, require, unknown_name
from agentfly.images import ImageLimits, ImageView
from agentfly.tools.decorator import ArgumentCheck, Tool, ToolResult
from agentfly.tools.image_arguments import source_handle
from agentfly.tools.mcp.settings import McpServer
from agentfly.tools.source import ToolSource

if TYPE_CHECKING:
    import mcp_types as types

    from agentfly.tools.mcp.connection import Connection

logger = logging.getLogger(__name__)

# How often in a row a server may end before its calls end their chains, and seconds until it is tried again after that.
_LOSSES, _PAUSE = 2, 30.0


@dataclass(frozen=True)
class _Listed:
    """A tool of the server as a model sees it, not bound to a chain yet."""

    foreign: str
    name: str
    description: str
    parameters: dict[str, Any]
    check: ArgumentCheck
    images: frozenset[str]
    looks: bool


@dataclass
class _Link:
    """The connection of one event loop.

    Attributes:
        losses: how often in a row the server ended, or could not be reached.
        blocked_until: `time.monotonic()` before which it is not tried again.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: Connection | None = None
    losses: int = 0
    blocked_until: float = 0.0
    closing: set[asyncio.Task[None]] = field(default_factory=set)


class McpTools(ToolSource):
    """The tools of a foreign server.

    Used alone: `async with McpTools(server) as source: tools = Toolset(source.tools(view))`.

    Args:
        server: how to reach it, and what to use of it.
        image_limits: of the images of its results.

    Raises:
        MissingExtraError: the SDK is not installed.
    """

    def __init__(self, server: McpServer, image_limits: ImageLimits | None = None) -> None:
        require("mcp", "an MCP server", "mcp")
        self.server = server
        limits = image_limits or ImageLimits()
        self._limits = ImageLimits(limits.max_pixels, limits.max_bytes, allow_files=False)
        self._links = LoopLocal(_Link)
        self._listed: tuple[_Listed, ...] | None = None

    @property
    def label(self) -> str:
        """Name of the server for messages."""
        return self.server.label

    @property
    def ready(self) -> bool:
        """True once the tools of the server are known."""
        return self._listed is not None

    async def prepare(self) -> None:
        """Start the server and ask for its tools, unless they are known.

        Raises:
            ConfigError: it cannot be started, it has no tool of a name that the settings have, or none that is usable.
            ToolOutage: it does not answer in time.
        """
        link = self._links.get()
        if self._listed is not None:
            return
        connection = await self._connected(link)
        async with link.lock:
            if self._listed is None:
                self._listed = tuple(self._read(await connection.list_tools()))

    def tools(self, view: ImageView) -> Iterable[Tool]:
        """Return the tools on the images of one chain; see `ToolSource.tools`."""
        if self._listed is None:
            raise ConfigError(f"the tools of {self.server.label} are not known yet: await agent.prepare() first")
        return [self._bound(listed, view) for listed in self._listed]

    async def close(self) -> None:
        """Disconnect, and end the program of the server with its children. The next call starts it again."""
        link = self._links.take()
        if link is None:
            return
        if link.connection is not None:
            await link.connection.close()
        if link.closing:
            await asyncio.wait(link.closing)

    async def __aenter__(self) -> McpTools:
        try:
            await self.prepare()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _read(self, found: list[types.Tool]) -> list[_Listed]:
        """Return the tools that are used. One whose schema cannot be shown to a model is left out, with a warning."""
        from agentfly.tools.mcp import schemas

        server, known = self.server, [tool.name for tool in found]
        for name in (*(server.include or ()), *server.exclude, *server.images):
            if name not in known:
                raise ConfigError(f"{server.label}: {unknown_name('tool', name, known)}")
        used = [
            tool
            for tool in found
            if (server.include is None or tool.name in server.include) and tool.name not in server.exclude
        ]
        usable = []
        for tool, name in zip(used, schemas.tool_names((tool.name for tool in used), server.prefix), strict=True):
            try:
                schema = schemas.sound_schema(tool.input_schema)
                images = schemas.image_arguments(schema, server.images.get(tool.name, ()))
                schema = schemas.with_image_ids(schema, images)
                check = schemas.argument_check(schema)
            except schemas.UnusableSchema as fault:
                if server.include is not None or tool.name in server.images:
                    raise ConfigError(f"{server.label}: the tool {tool.name!r} cannot be used: {fault}") from fault
                logger.warning("%s: the tool %r is left out: %s", server.label, tool.name, fault)
                continue
            looks = tool.annotations is not None and tool.annotations.read_only_hint is True
            words = schemas.described(tool.description or tool.title)
            usable.append(_Listed(tool.name, name, words, schema, check, images, looks))
        if not usable:
            raise ConfigError(
                f"{server.label} has no tool that can be used here: it lists {', '.join(known) or 'none'}"
            )
        return usable

    def _bound(self, listed: _Listed, view: ImageView) -> Tool:
        async def call(**arguments: object) -> ToolResult:
            return await self._call(listed, arguments, view)

        return Tool(listed.name, listed.description, listed.parameters, call, listed.check, looks=listed.looks)

    async def _call(self, listed: _Listed, arguments: dict[str, object], view: ImageView) -> ToolResult:
        from agentfly.tools.mcp.connection import ConnectionLost
        from agentfly.tools.mcp.results import observation, with_images

        filled = await with_images(arguments, listed.images, self.server, view)
        link = self._links.get()
        connection = await self._connected(link)
        try:
            result = await connection.call(listed.foreign, filled)
        except ConnectionLost as fault:
            self._lose(link, connection)
            if link.losses >= _LOSSES:
                raise ToolOutage(f"{fault}; it has ended {link.losses} times in a row") from fault
            raise ConnectionLost(f"{fault}; it is started again: try again or use another tool") from fault
        link.losses = 0
        observed = await observation(result, self.server, view, self._limits, looks=listed.looks)
        source = source_handle(view, tuple(listed.images), arguments)
        return observed if source is None else replace(observed, data={**observed.data, "source": source})

    async def _connected(self, link: _Link) -> Connection:
        """Return the open connection; open one where there is none.

        Raises:
            ConfigError: the server cannot be started.
            ToolOutage: it does not answer, or did not a moment ago.
        """
        from agentfly.tools.mcp.connection import Connection

        async with link.lock:
            if link.connection is not None and not link.connection.ended:
                return link.connection
            if link.connection is not None:
                self._lose(link, link.connection)
            if time.monotonic() < link.blocked_until:
                raise ToolOutage(f"{self.server.label} does not work: it is tried again in {_PAUSE:g} s at most")
            connection = Connection(self.server)
            try:
                await connection.open()
            except ToolOutage:
                link.losses += 1
                link.blocked_until = time.monotonic() + _PAUSE
                raise
            link.connection = connection
            return connection

    def _lose(self, link: _Link, connection: Connection) -> None:
        """Forget a connection that ended. All calls that were on it report the same loss, which counts once."""
        if link.connection is not connection:
            return
        link.connection = None
        link.losses += 1
        if link.losses >= _LOSSES:
            link.blocked_until = time.monotonic() + _PAUSE
        # What is left of the program is ended without keeping the caller.
        task = asyncio.get_running_loop().create_task(connection.close())
        link.closing.add(task)
        task.add_done_callback(link.closing.discard)
