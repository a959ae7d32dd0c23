"""The server over streamable HTTP: the SDK's session manager behind our checks.

The revision of the protocol of 2026-07-28 has no sessions over HTTP, and ids of images are of a session. So a client
that asks for that revision is told the earlier ones, in the words of the protocol, and falls back to one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import mcp_types as types
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentfly.lenient_json import count_separators
from agentfly.serving.errors import QueueFull, RequestError, RequestRefused, error_response
from agentfly.serving.mcp.server import SESSION_HEADER, ImageToolServer
from agentfly.serving.mcp.session import Sessions
from agentfly.serving.mcp.settings import McpServerSettings
from agentfly.serving.request_data import HeldMemory, RequestMemory, check_key, check_length, check_values, too_large

PATH = "/mcp"
_VERSION_HEADER = b"mcp-protocol-version"
# Bodies that are read at once beyond those of calls that are worked on or wait; and bodies that fit into memory.
_READING, _BODIES = 16, 4
# Seconds for a request beyond those of its call, to be read and answered.
_SLACK = 30.0


def create_app(tools: ImageToolServer, settings: McpServerSettings) -> Starlette:
    """Return the application; it serves `/mcp`.

    Args:
        tools: handles the protocol.
        settings: of the server.
    """
    limits = settings.limits
    manager = StreamableHTTPSessionManager(
        tools.server,
        # An event of a stream has a bound of a megabyte in clients, and images are larger.
        json_response=True,
        session_idle_timeout=limits.idle_seconds,
        max_request_body_size=limits.body_bytes,
        max_sessions=limits.sessions,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        ending = asyncio.create_task(_end_idle(tools.sessions, limits.idle_seconds))
        try:
            async with manager.run():
                yield
        finally:
            ending.cancel()

    return Starlette(
        routes=[Route(PATH, endpoint=StreamableHTTPASGIApp(manager))],
        middleware=[Middleware(Guard, settings=settings, sessions=tools.sessions)],
        lifespan=lifespan,
    )


async def _end_idle(sessions: Sessions, idle_seconds: float) -> None:
    while True:
        await asyncio.sleep(min(60.0, idle_seconds))
        sessions.end_idle()


class Guard:
    """The checks before the SDK: the key, the revision, the size of bodies and their number; and the use of sessions.

    Args:
        app: the application.
        settings: key and limits.
        sessions: of the clients.
    """

    def __init__(self, app: ASGIApp, settings: McpServerSettings, sessions: Sessions) -> None:
        self._app, self._sessions = app, sessions
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None
        self._most = settings.limits.body_bytes
        self._seconds = settings.limits.call_seconds + _SLACK
        self._memory = RequestMemory(_BODIES * self._most)
        self._posts, self._most_posts = 0, settings.limits.calls + settings.limits.queue + _READING

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check(scope["method"], headers)
            version = headers.get(_VERSION_HEADER, b"").decode("latin-1")
            if version and version not in HANDSHAKE_PROTOCOL_VERSIONS:
                await _without_sessions(version)(scope, receive, send)
                return
            name = headers.get(SESSION_HEADER.encode(), b"").decode("latin-1")
            await self._serve(name, scope, receive, send)
        except RequestError as fault:
            await error_response(fault)(scope, receive, send)

    def _check(self, method: str, headers: dict[bytes, bytes]) -> None:
        if self._key is not None:
            check_key(headers, self._key)
        check_length(headers, self._most)
        if method == "POST" and self._posts >= self._most_posts:
            raise QueueFull(1)

    async def _serve(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        posts, status = scope["method"] == "POST", 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._posts += posts
        try:
            with HeldMemory(self._memory) as held, self._sessions.during_request(name):
                # The SDK never answers the first of two requests that have one id.
                async with asyncio.timeout(self._seconds if posts else None):
                    await self._app(scope, _Body(receive, self._most, held), watched)
        except TimeoutError as fault:
            if status:
                raise
            raise RequestRefused("this request was not answered in time", status=504, code="timeout") from fault
        finally:
            self._posts -= posts
        if scope["method"] == "DELETE" and status < 400:
            self._sessions.end(name)


class _Body:
    """A `receive` that refuses a body beyond its bound, one with too many values, or one beyond all memory."""

    def __init__(self, receive: Receive, most: int, held: HeldMemory) -> None:
        self._receive, self._most, self._held = receive, most, held
        self._seen = self._separators = 0

    async def __call__(self) -> Message:
        received = await self._receive()
        piece = received.get("body", b"")
        self._seen += len(piece)
        if self._seen > self._most:
            raise too_large(self._most)
        self._separators += count_separators(piece)
        check_values(self._separators)
        self._held.take(len(piece))
        return received


def _without_sessions(version: str) -> Response:
    data = types.UnsupportedProtocolVersionErrorData(
        supported=list(HANDSHAKE_PROTOCOL_VERSIONS), requested=version[:40]
    )
    error = types.ErrorData(
        code=types.UNSUPPORTED_PROTOCOL_VERSION,
        message="ids of images belong to a session, which this revision lacks over HTTP: use an earlier one",
        data=data.model_dump(mode="json"),
    )
    body = types.JSONRPCError(jsonrpc="2.0", id=None, error=error)
    return Response(body.model_dump_json(by_alias=True), 400, media_type="application/json")
