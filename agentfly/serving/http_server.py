"""The HTTP server of every application here: uvicorn, with the limits that it lacks.

uvicorn closes a connection that is quiet after a reply, and no other. So a client could hold connections for ever: one
that sends nothing, sends its headers or its body byte by byte, or does not read its reply. And the parser takes headers
of any length. A server at its limit of open files is deaf, and asyncio logs that thousands of times a second.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import sys
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agentfly.errors import ConfigError
from agentfly.serving.errors import RequestError, RequestRefused, error_response
from agentfly.serving.hosts import AllowedHosts
from agentfly.serving.settings import ConnectionLimits

logger = logging.getLogger(__name__)

_HEADER_BYTES = 64 * 1024
_BACKLOG = 512
_LOG_PAUSE = 60.0

OnRefusal = Callable[[Scope, RequestError], None]


def make_server(
    app: ASGIApp,
    host: str,
    port: int,
    limits: ConnectionLimits,
    on_refusal: OnRefusal | None = None,
    *,
    ws: Literal["none", "auto"] = "none",
    **options: Any,
) -> uvicorn.Server:
    """Return a server of `app`.

    Args:
        app: the application.
        host, port: address to listen on.
        limits: of its connections.
        on_refusal: see `Front`.
        ws: "auto" takes WebSocket connections, by the library that is installed.
        **options: further ones of `uvicorn.Config`.
    """
    front = Front(app, AllowedHosts(host, limits.allowed_hosts), limits, on_refusal)
    protocol = _limited_protocol(limits)
    # As many connections are accepted at once, before the first of them can be counted.
    backlog = max(1, min(_BACKLOG, _most_files() // 4))
    return _Server(uvicorn.Config(front, host=host, port=port, http=protocol, ws=ws, backlog=backlog, **options))


def check_port(host: str, port: int) -> None:
    """Check that a server can listen at an address, before it loads anything.

    Args:
        host, port: the address; port 0 stands for any free one.

    Raises:
        ConfigError: another program listens there, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as fault:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({fault.strerror or fault}): stop the other program, or give another "
            "--port or --host"
        ) from fault


class Front:
    """The middleware before an application: it checks `Host` and `Origin`, and gives bodies a deadline.

    Args:
        app: the application.
        hosts: the names of the server.
        limits: of its connections.
        on_refusal: called with each request that is refused here, which the application never sees.
    """

    def __init__(
        self, app: ASGIApp, hosts: AllowedHosts, limits: ConnectionLimits, on_refusal: OnRefusal | None = None
    ) -> None:
        self._app, self._hosts, self._limits, self._on_refusal = app, hosts, limits, on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._hosts.check(scope["headers"])
        except RequestError as fault:
            if self._on_refusal is not None:
                self._on_refusal(scope, fault)
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})  # before it is accepted: the reply has status 403
            else:
                await error_response(fault)(scope, receive, send)
            return
        await self._app(scope, _BodyInTime(receive, self._limits) if scope["type"] == "http" else receive, send)


class _BodyInTime:
    """A `receive` that raises `RequestRefused` when the body comes too slowly."""

    def __init__(self, receive: Receive, limits: ConnectionLimits) -> None:
        self._receive, self._limits = receive, limits
        self._begun, self._came, self._more = asyncio.get_running_loop().time(), 0, True

    async def __call__(self) -> Message:
        if not self._more:
            return await self._receive()
        try:
            async with asyncio.timeout_at(
                self._begun + self._limits.body_seconds + self._came / self._limits.body_rate
            ):
                message = await self._receive()
        except TimeoutError:
            raise RequestRefused(
                f"the body of this request came too slowly: it has {self._limits.body_seconds:g} s, and one more for "
                f"every {self._limits.body_rate} bytes",
                status=408,
                code="body_too_slow",
            ) from None
        self._came += len(message.get("body", b""))
        self._more = bool(message.get("more_body", False))
        return message


class _Server(uvicorn.Server):
    """A server whose log cannot be flooded: what clients cause again and again is logged once a minute."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_ExhaustionLog())
        await super().startup(sockets)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        seldom = _SeldomFilter()
        log = logging.getLogger("uvicorn.error")
        log.addFilter(seldom)
        try:
            await super().serve(sockets)
        finally:
            log.removeFilter(seldom)


class _SeldomFilter(logging.Filter):
    """A filter that passes each warning of uvicorn's about requests once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        # uvicorn's warnings are few fixed texts; its errors are about the server itself.
        if record.levelno != logging.WARNING or record.args:
            return True
        if record.created < self._next.get(record.msg, 0.0):
            return False
        self._next[record.msg] = record.created + _LOG_PAUSE
        return True


class _ExhaustionLog:
    def __init__(self) -> None:
        self._log = _Seldom()

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if isinstance(fault, OSError) and fault.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            self._log(
                loop.time(), "no connection can be accepted (%s): raise the limit of open files (ulimit -n)", fault
            )
        # asyncio tries again a second later, also if the server was closed meanwhile (`_start_serving`).
        elif not (isinstance(fault, ValueError) and "_start_serving" in str(context.get("message"))):
            loop.default_exception_handler(context)


class _Seldom:
    """A warning that is logged once a minute at most."""

    def __init__(self) -> None:
        self._next = float("-inf")

    def __call__(self, now: float, text: str, *details: object) -> None:
        if now >= self._next:
            self._next = now + _LOG_PAUSE
            logger.warning(text, *details)


def _most_files() -> int:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if files == resource.RLIM_INFINITY else files


def _limited_protocol(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """Return the protocol class of one server; its connections know of each other."""
    most = max(1, min(limits.connections, _most_files() // 2))
    return type("Connection", (_Connection,), {"limits": limits, "most": most, "idle": {}, "warn": _Seldom()})


class _Connection(HttpToolsProtocol):
    """A connection that ends when its client is too slow, or when its place is needed.

    Attributes:
        idle: the connections without a request, the one that waits for longest first.
    """

    limits: ClassVar[ConnectionLimits]
    most: ClassVar[int]
    idle: ClassVar[dict[_Connection, None]]
    warn: ClassVar[Callable[..., None]]
    _headers_due: asyncio.TimerHandle | None = None
    _reply_due: asyncio.TimerHandle | None = None
    _unsent = 0
    _in_headers = False
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self.warn(self.loop.time(), "%d connections are open, which is the limit: idle ones are closed", self.most)
            # A client that does nothing is the one to go. If all are served, nobody is.
            victim = next(iter(self.idle), self)
            self.idle.pop(victim, None)
            victim.transport.abort()
            if victim is self:
                return
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._reply_due is not None:
            self._reply_due.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.cycle is not before:
            self._stop_waiting()
        elif self._headers_due is None and self in self.idle:
            self._wait_for_headers()
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > _HEADER_BYTES:
                self.send_400_response(f"The headers of a request have {_HEADER_BYTES} bytes at most.")

    def handle_websocket_upgrade(self) -> None:
        # Another protocol has the connection from here on.
        self._stop_waiting()
        super().handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers, self._header_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        # After the headers of a request these are trailers of its body, of any number; nobody reads them.
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:
            self.idle[self] = None
        if self._reply_due is None:
            self._watch_reply()

    def _wait_for_headers(self) -> None:
        self.idle[self] = None
        self._headers_due = self.loop.call_later(self.limits.header_seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        self.idle.pop(self, None)
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _watch_reply(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._reply_due = None
        if self._unsent:
            self._reply_due = self.loop.call_later(self.limits.send_seconds, self._check_reply)

    def _check_reply(self) -> None:
        if self.transport.get_write_buffer_size() >= self._unsent:
            self.transport.abort()
        else:
            self._watch_reply()
