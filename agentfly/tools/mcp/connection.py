"""One connection to a foreign server.

The scopes of the SDK must be left by the task that entered them. So a task of its own holds each connection, and the
calls of all chains go through it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from agentfly import __version__
from agentfly.aio import TimeLimitExceeded
from agentfly.errors import AgentFlyError, ConfigError, ToolError, ToolOutage, first_line, printable, shortened
from agentfly.redaction import redact
from agentfly.tools.mcp.settings import McpServer
from agentfly.tools.mcp.stdio import ProgramStreams

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CONNECT_SECONDS = 10.0
# Seconds for a connection to end: a program gets a moment to do so by itself.
_CLOSE_SECONDS = 15.0
# Seconds that a call may take beyond its limit, for the SDK to report the limit by itself and to tell the server.
_SLACK = 5.0
# The words of the SDK, and of servers, for a session that the server has forgotten, as when it was started anew.
_SESSION_OVER = ("Session terminated", "Session not found")
_MOST_PAGES, _MOST_TOOLS = 50, 500


class ConnectionLost(ToolError):
    """The server ended, or sent what cannot be read, during a call."""


class Connection:
    """A connection that is open or was open.

    Args:
        server: how to reach the server.
    """

    def __init__(self, server: McpServer) -> None:
        self._server, self._key = server, server.key()
        self._program = ProgramStreams(server) if server.command else None
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: Client | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            ConfigError: the program cannot be started.
            ToolOutage: the server does not answer in time, or not as one.
        """
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Client] = loop.create_future()
        self._task = loop.create_task(self._hold(ready), name="agentfly-mcp")
        try:
            waiting: set[asyncio.Future[Any]] = {self._task, ready}
            await asyncio.wait(waiting, timeout=self._server.start_timeout, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._task.cancel()
            raise
        if ready.done():
            self._client = ready.result()
            return
        if self._task.done():
            raise self._start_fault(self._task.exception())
        await self.close()
        raise ToolOutage(
            f"{self._server.label} did not answer within {self._server.start_timeout:g} s{self._why()}: check it, or "
            "raise start_timeout"
        )

    async def _hold(self, ready: asyncio.Future[Client]) -> None:
        program = self._program
        transport = address_transport(self._server, self._key) if program is None else program.transport()
        about = types.Implementation(name="agentfly", version=__version__)
        timeout = self._server.call_timeout
        async with Client(transport, read_timeout_seconds=timeout, client_info=about, cache=None) as client:
            if not ready.done():
                ready.set_result(client)
            await self._closing.wait()

    @property
    def ended(self) -> bool:
        """True once a program has ended, or the connection was closed."""
        return self._task is None or self._task.done() or (self._program is not None and self._program.over)

    async def list_tools(self) -> list[types.Tool]:
        """Return the tools of the server, all pages.

        Raises:
            ToolOutage: it does not answer in time, or not as it should.
        """

        async def pages() -> list[types.Tool]:
            assert self._client is not None
            found: list[types.Tool] = []
            cursor = None
            for _ in range(_MOST_PAGES):
                page = await self._client.list_tools(cursor=cursor)
                found += page.tools
                cursor = page.next_cursor
                if cursor is None or len(found) > _MOST_TOOLS:
                    break
            return found[:_MOST_TOOLS]

        try:
            return await self._request(pages(), self._server.start_timeout)
        except (TimeLimitExceeded, ToolError, MCPError) as fault:
            raise ToolOutage(f"{self._server.label} does not list its tools: {self._said(fault)}") from fault

    async def call(self, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        """Call a tool and return its result, which may be one of a failure.

        Args:
            name: of the tool, as the server has it.
            arguments: checked.

        Raises:
            ConnectionLost: the connection is of no use any more.
            ToolError: the server refuses the call, or does not answer in time.
        """
        assert self._client is not None
        timeout = self._server.call_timeout
        # Not `call_tool`, which checks results by schemas of the server, whose patterns can take for ever.
        request = types.CallToolRequest(params=types.CallToolRequestParams(name=name, arguments=arguments))
        work = self._client.session.send_request(request, types.CallToolResult, timeout)
        try:
            return await self._request(work, timeout + _SLACK)
        except TimeLimitExceeded as fault:
            raise ConnectionLost(f"{self._server.label} takes no requests any more") from fault
        except MCPError as fault:
            if fault.code == types.CONNECTION_CLOSED or fault.message in _SESSION_OVER:
                raise ConnectionLost(f"{self._server.label} ended during this call{self._why()}") from fault
            if fault.code == types.REQUEST_TIMEOUT:
                raise ToolError(
                    f"{self._server.label} did not answer within {timeout:g} s; try a smaller request or another tool"
                ) from fault
            raise ToolError(f"{self._server.label} refuses this call: {self._said(fault)}") from fault

    async def _request(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Return the result of a request; raise `ConnectionLost` or `TimeLimitExceeded` rather than wait for ever."""
        assert self._task is not None
        request = asyncio.ensure_future(work)
        try:
            await asyncio.wait({request, self._task}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not request.done():
                if self._task.done():
                    raise ConnectionLost(f"{self._server.label} ended during this call{self._why()}")
                raise TimeLimitExceeded
            if request.cancelled():
                raise ConnectionLost(f"{self._server.label} ended during this call{self._why()}")
            return request.result()
        except (AgentFlyError, TimeLimitExceeded, MCPError):
            raise
        except Exception as fault:  # the SDK and pydantic raise many kinds on replies that break the protocol
            raise ToolError(
                f"{self._server.label} sent a reply that breaks the protocol: {self._said(fault)}"
            ) from fault
        finally:
            if not request.done():
                request.add_done_callback(_ignore_outcome)
                request.cancel()

    async def close(self) -> None:
        """Disconnect, and end the program with all its processes. Safe to call twice."""
        self._closing.set()
        if self._task is None:
            return
        if self._client is None:
            self._task.cancel()
        for _ in range(2):
            await asyncio.wait({self._task}, timeout=_CLOSE_SECONDS)
            if self._task.done():
                break
            self._task.cancel()
        else:
            logger.warning("%s does not close", self._server.label)
        if self._task.done() and not self._task.cancelled() and (fault := self._task.exception()) is not None:
            logger.debug("%s closed with %s", self._server.label, self._said(fault))

    def _start_fault(self, fault: BaseException | None) -> AgentFlyError:
        """Return the error for a connection that failed before it was one."""
        for found in _leaves(fault):
            if isinstance(found, ConfigError):
                return found
        said = "" if fault is None else f": {self._said(fault)}"
        return ToolOutage(f"{self._server.label} does not speak MCP{said}{self._why()}; check its address or command")

    def _said(self, fault: BaseException) -> str:
        """Return the reason of a fault in one short line without secrets."""
        found = next(_leaves(fault), fault)
        text = "it took too long" if isinstance(found, TimeLimitExceeded) else first_line(found)
        return shortened(printable(redact(text, self._key)), 200)

    def _why(self) -> str:
        if self._program is None:
            return ""
        words = self._program.problem or self._program.last_words.rpartition("\n")[2]
        return f" ({shortened(words, 200)})" if words else ""


@asynccontextmanager
async def address_transport(server: McpServer, key: str | None) -> AsyncIterator[TransportStreams]:
    """Yield the messages of a server at an address, and a stream for ours. Replies and their events have a bound.

    Args:
        server: settings with an address.
        key: sent with each request; None for none.
    """

    async def bounded(response: httpx2.Response) -> None:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise httpx2.DecodingError("the reply is compressed, which was not asked for", request=response.request)
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _BoundedStream(response.stream, server.max_message_bytes)

    headers = {"Accept-Encoding": "identity", **({} if key is None else {"Authorization": f"Bearer {key}"})}
    timeout = httpx2.Timeout(_CONNECT_SECONDS, read=server.call_timeout + _SLACK)
    hooks = {"response": [bounded]}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout, event_hooks=hooks) as client,
        streamable_http_client(server.url, http_client=client, max_sse_event_size=server.max_message_bytes) as streams,
    ):
        yield streams


class _BoundedStream(httpx2.AsyncByteStream):
    """The body of a reply, up to a number of bytes."""

    def __init__(self, body: httpx2.AsyncByteStream, most: int) -> None:
        self._body, self._most = body, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for piece in self._body:
            seen += len(piece)
            if seen > self._most:
                raise httpx2.ReadError(f"the reply has more than {self._most} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._body.aclose()


def _leaves(fault: BaseException | None) -> Iterator[BaseException]:
    """Yield the faults of a group, at any depth."""
    if isinstance(fault, BaseExceptionGroup):
        for inner in fault.exceptions:
            yield from _leaves(inner)
    elif fault is not None:
        yield fault


def _ignore_outcome(request: asyncio.Future[Any]) -> None:
    # It comes too late. Retrieving the exception keeps asyncio from logging it as never retrieved.
    if not request.cancelled():
        request.exception()
