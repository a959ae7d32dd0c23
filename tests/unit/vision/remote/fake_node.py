"""An image server that does what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentfly.images import to_base64

Behaviour = Callable[[Request], Awaitable[Response]]


def make_image(colour: Any = (1, 2, 3), size: tuple[int, int] = (8, 6)) -> Image.Image:
    """An image of one colour."""
    return Image.new("RGB", size, colour)


def answer(image: Image.Image | None = None, after: float = 0.0) -> Behaviour:
    """An image, after some seconds."""

    async def behave(_: Request) -> Response:
        await asyncio.sleep(after)
        text = to_base64(image or make_image())
        return JSONResponse({"created": 1, "data": [{"b64_json": text}]})

    return behave


def held(until: threading.Event) -> Behaviour:
    """An image, when the test says so."""

    async def behave(request: Request) -> Response:
        while not until.is_set():
            await asyncio.sleep(0.005)
        return await answer()(request)

    return behave


def status(code: int, message: str = "no", **headers: str) -> Behaviour:
    """An error in OpenAI's form."""

    async def behave(_: Request) -> Response:
        return JSONResponse({"error": {"message": message}}, code, {k.replace("_", "-"): v for k, v in headers.items()})

    return behave


def says(body: Any) -> Behaviour:
    """Any JSON with status 200."""

    async def behave(_: Request) -> Response:
        return Response(body if isinstance(body, bytes) else json.dumps(body))

    return behave


class FakeNode:
    """A server on loopback.

    Args:
        owner: `owned_by` of its model.
        capabilities: what it says it can do.
        max_images: images of an edit, as it says; None says nothing, as earlier versions.
    """

    def __init__(
        self,
        owner: str = "agentfly",
        capabilities: tuple[str, ...] = ("edit", "inpaint", "detect"),
        max_images: object = None,
    ) -> None:
        self.owner, self.capabilities, self.max_images = owner, capabilities, max_images
        self.script: deque[Behaviour] = deque()
        self.otherwise: Behaviour = answer()
        self.health = 200
        self.silent = False
        self.forms: list[dict[str, Any]] = []
        self.images: list[list[tuple[str, bytes]]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.running = self.most_running = self.hung_up = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address: tuple[str, int] = probe.getsockname()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    async def work(self, request: Request) -> Response:
        self.times.append(time.monotonic())
        self.keys.append(request.headers.get("authorization"))
        async with request.form() as form:
            parts = [(k, v if isinstance(v, str) else await v.read()) for k, v in form.multi_items()]
        self.forms.append(dict(parts))
        self.images.append([(k, v) for k, v in parts if isinstance(v, bytes) and k.startswith("image")])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        behave = asyncio.ensure_future((self.script.popleft() if self.script else self.otherwise)(request))
        gone = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({behave, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not behave.done():
                self.hung_up += 1
                return Response(status_code=499)
            return behave.result()
        finally:
            self.running -= 1
            behave.cancel()
            gone.cancel()

    async def models(self, _: Request) -> Response:
        model: dict[str, object] = {"id": "fake-model", "owned_by": self.owner, "capabilities": self.capabilities}
        if self.max_images is not None:
            model["max_images"] = self.max_images
        return JSONResponse({"object": "list", "data": [model]})

    async def get_health(self, _: Request) -> Response:
        while self.silent:
            await asyncio.sleep(0.005)
        return Response(status_code=self.health)

    @contextmanager
    def up(self) -> Iterator[FakeNode]:
        """Listen until the block ends."""
        routes = [
            Route("/health", self.get_health),
            Route("/v1/models", self.models),
            Route("/v1/images/edits", self.work, methods=["POST"]),
            Route("/v1/detections", self.work, methods=["POST"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), host="127.0.0.1", port=self.address[1], log_level="error", lifespan="off"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        try:
            yield self
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)
