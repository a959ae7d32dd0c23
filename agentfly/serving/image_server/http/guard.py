"""The checks before the endpoints: the key, the size of bodies, the number of requests; and the form of errors.

A plain ASGI layer: it checks a request before a byte of its body is read, and leaves `http.disconnect` to the
endpoints.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import math
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentfly.aio import ClientLimits
from agentfly.serving.image_server.errors import QueueFull, RequestError, RequestRefused, TooManyRequests
from agentfly.serving.image_server.metrics import Metrics
from agentfly.serving.image_server.settings import ServerSettings

logger = logging.getLogger(__name__)

# These need no key: they say that the server is up and how to use it, and nothing of anybody's images.
OPEN_PATHS = frozenset(("/", "/health", "/docs", "/docs/oauth2-redirect", "/openapi.json"))
# Requests whose bodies may be read at once beyond those that the queue and the workers take.
_READING = 16


class Guard:
    """The middleware around the application.

    Args:
        app: the application.
        settings: key and limits.
        metrics: counts the requests that the rate limit refuses.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app = app
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None
        self._body_bytes = settings.limits.body_bytes
        self._most_posts = settings.max_queue + settings.capacity + _READING
        self._posts, self._metrics = 0, metrics
        self._per_minute = settings.max_requests_per_minute
        self._clients = ClientLimits(self._per_minute) if self._per_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection or request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        replied = False

        async def watched(message: Message) -> None:
            nonlocal replied
            replied = replied or message["type"] == "http.response.start"
            await send(message)

        try:
            self._check(scope)
            posts = scope["method"] == "POST"
            self._posts += posts
            try:
                await self._app(scope, _Bounded(receive, self._body_bytes), watched)
            finally:
                self._posts -= posts
        except RequestError as fault:
            await _reply(fault, watched)
        except Exception:
            number = uuid.uuid4().hex[:12]
            logger.exception("request %s failed", number)
            if not replied:
                await _reply(RequestError(f"internal error {number}; the server's log says more"), watched)

    def _check(self, scope: Scope) -> None:
        """Raise `RequestError` for a wrong key, a body that is too large, a full queue, or a client beyond its rate.

        Only requests of work, which are POSTs, are counted for the queue and the rate: the others cost nothing.
        """
        headers = dict(scope["headers"])
        if self._key is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
            if not hmac.compare_digest(sent.strip(), self._key) or scheme.lower() != b"bearer":
                raise RequestRefused(
                    "a key is needed: send it as Authorization: Bearer KEY", status=401, code="invalid_api_key"
                )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._body_bytes:
            raise _too_large(self._body_bytes)
        if scope["method"] != "POST":
            return
        if self._posts >= self._most_posts:
            raise QueueFull(1)
        if self._clients is not None and self._per_minute is not None:
            seconds = self._clients.admit(client_of(scope))
            if seconds:
                self._metrics.rate_limited.inc()
                raise TooManyRequests(self._per_minute, math.ceil(seconds))


def client_of(scope: Scope) -> str:
    """Return the name of a client: its IPv4 address, or the /64 network that one holder of IPv6 addresses has."""
    host: str = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    mapped = address.ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(address), 64), strict=False))


class _Bounded:
    """A `receive` that refuses a body beyond its bound, whatever its Content-Length says."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._seen = receive, most, 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > self._most:
            raise _too_large(self._most)
        return message


def _too_large(most: int) -> RequestRefused:
    return RequestRefused(f"the body of a request has {most} bytes at most", status=413, code="body_too_large")


def error_body(fault: RequestError) -> dict[str, dict[str, str | None]]:
    """Return an error in OpenAI's form."""
    return {"error": {"message": str(fault), "type": fault.kind, "param": fault.param, "code": fault.code}}


async def _reply(fault: RequestError, send: Send) -> None:
    body = json.dumps(error_body(fault)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if fault.retry_after is not None:
        headers.append((b"retry-after", str(fault.retry_after).encode()))
    if fault.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
