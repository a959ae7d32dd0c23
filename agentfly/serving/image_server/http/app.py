"""The FastAPI application of the image server: its routes, its page `/docs`, and the checks before the endpoints."""

from __future__ import annotations

import ipaddress
import logging
import math
import uuid

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentfly import __version__
from agentfly.aio import ClientLimits
from agentfly.serving.errors import QueueFull, RequestError, RequestRefused, TooManyRequests, error_response
from agentfly.serving.image_server.http.body import DetectionFields, EditFields, GenerationFields
from agentfly.serving.image_server.http.endpoints import ImageServer
from agentfly.serving.image_server.metrics import Metrics
from agentfly.serving.image_server.settings import ServerSettings
from agentfly.serving.image_server.workers.messages import Operation
from agentfly.serving.request_data import HeldMemory, RequestMemory, check_key, check_length, too_large

logger = logging.getLogger(__name__)

# These need no key: they say that the server is up and how to use it, and nothing of anybody's images.
OPEN_PATHS = frozenset(("/", "/health", "/docs", "/docs/oauth2-redirect", "/openapi.json"))
# The endpoints of work, with the operation that a request is counted as before its body is read.
WORK_PATHS = {
    "/v1/images/edits": Operation.edit,
    "/v1/images/edits/upload": Operation.edit,
    "/v1/images/generations": Operation.generate,
    "/v1/detections": Operation.detect,
}
_FILE: dict[str, object] = {"type": "string", "format": "binary"}
_TEXT: dict[str, object] = {"type": "string", "description": "base64 or a data URI"}


def create_app(settings: ServerSettings) -> FastAPI:
    """Return the application; its workers start and end with its lifespan."""
    server = ImageServer(settings)
    app = FastAPI(title="agentfly image server", version=__version__, lifespan=server.lifespan, redoc_url=None)
    app.state.server = server
    app.add_exception_handler(HTTPException, _refuse)
    app.add_middleware(Guard, settings=settings, metrics=server.dispatcher.metrics)
    app.get("/")(server.root)
    app.get("/health", response_model=None)(server.health)
    app.get("/v1/models")(server.models)
    app.get("/gpu/status")(server.gpu_status)
    app.get("/metrics", response_model=None)(server.metrics)
    editing = describe_body(EditFields, images=True, mask=True)
    app.post("/v1/images/edits", response_model=None, openapi_extra=editing)(server.edits)
    app.post("/v1/images/edits/upload", response_model=None, openapi_extra=editing)(server.upload)
    generating = describe_body(GenerationFields, images=False, mask=False)
    app.post("/v1/images/generations", response_model=None, openapi_extra=generating)(server.generations)
    detecting = describe_body(DetectionFields, images=True, mask=False)
    app.post("/v1/detections", response_model=None, openapi_extra=detecting)(server.detections)
    return app


async def _refuse(_: Request, fault: Exception) -> Response:
    """Return FastAPI's own refusals, such as of an unknown path, in OpenAI's form."""
    assert isinstance(fault, HTTPException)
    return error_response(RequestRefused(str(fault.detail), status=fault.status_code))


def describe_body(fields: type[BaseModel], *, images: bool, mask: bool) -> dict[str, object]:
    """Return the `openapi_extra` of an endpoint. The endpoints read bodies themselves, so FastAPI cannot know them.

    Args:
        fields: of the endpoint, besides its images.
        images: True if it takes images; then its body may be JSON or a form.
        mask: True if it takes a mask.
    """
    schema = fields.model_json_schema()
    forms = {"application/json": _TEXT, **({"multipart/form-data": _FILE} if images else {})}
    names = [name for name, taken in (("image", images), ("mask", mask)) if taken]

    def further(image: dict[str, object]) -> dict[str, object]:
        words = "Images for reference, after the one to edit. The limit is max_images of /v1/models."
        return {"images": {"type": "array", "items": image, "description": words}} if mask else {}

    content = {
        kind: {
            "schema": {
                **schema,
                "properties": {**dict.fromkeys(names, image), **further(image), **schema["properties"]},
                "required": ["prompt", "image"] if images else ["prompt"],
            }
        }
        for kind, image in forms.items()
    }
    return {"requestBody": {"required": True, "content": content}}


def count_refusal(metrics: Metrics, scope: Scope, fault: RequestError) -> None:
    """Count a request that is refused before an endpoint sees it, if it is one of work.

    Args:
        metrics: of the server.
        scope: of the request.
        fault: the reason.
    """
    operation = WORK_PATHS.get(scope["path"])
    if operation is not None and scope["method"] == "POST":
        metrics.requests.labels(operation.value, fault.status).inc()


class Guard:
    """The middleware around the application: the key, the size of bodies, the number of requests; the form of errors.

    A plain ASGI layer: it checks a request before a byte of its body is read, and leaves `http.disconnect` to the
    endpoints. They find the memory that their request holds as `request.state.memory`.

    Args:
        app: the application.
        settings: key and limits.
        metrics: counts the requests that are refused here.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app = app
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None
        self._body_bytes = settings.limits.body_bytes
        self._memory = RequestMemory(settings.limits.memory_bytes)
        self._most_posts = settings.admitted
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
            self._check_and_count(scope)
            posts = scope["method"] == "POST"
            self._posts += posts
            try:
                with HeldMemory(self._memory) as held:
                    scope.setdefault("state", {})["memory"] = held
                    await self._app(scope, _Bounded(receive, self._body_bytes, held), watched)
            finally:
                self._posts -= posts
        except RequestError as fault:
            await error_response(fault)(scope, receive, watched)
        except Exception:
            number = uuid.uuid4().hex[:12]
            logger.exception("request %s failed", number)
            if not replied:
                hidden = RequestError(f"internal error {number}; the server's log says more")
                await error_response(hidden)(scope, receive, watched)

    def _check_and_count(self, scope: Scope) -> None:
        try:
            self._check(scope)
        except RequestError as fault:
            count_refusal(self._metrics, scope, fault)
            raise

    def _check(self, scope: Scope) -> None:
        """Raise `RequestError` for a wrong key, a body that is too large, a full queue, or a client beyond its rate.

        Only requests of work, which are POSTs, are counted for the queue and the rate: the others cost nothing.
        """
        headers = dict(scope["headers"])
        if self._key is not None and scope["path"] not in OPEN_PATHS:
            check_key(headers, self._key)
        check_length(headers, self._body_bytes)
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
    """A `receive` that refuses a body beyond its bound, whatever its Content-Length says, or beyond all memory."""

    def __init__(self, receive: Receive, most: int, held: HeldMemory) -> None:
        self._receive, self._most, self._seen, self._held = receive, most, 0, held

    async def __call__(self) -> Message:
        message = await self._receive()
        size = len(message.get("body", b""))
        self._seen += size
        if self._seen > self._most:
            raise too_large(self._most)
        self._held.take(size)
        return message
