"""An image server with real worker processes, its HTTP side in a thread of the test's own process."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from PIL import Image

from agentfly.serving.image_server import ServerSettings
from agentfly.serving.image_server.app import ImageServer, create_app

PUPPET = {"model_type": "custom", "model_path": "tests.unit.serving.custom_engines:puppet"}


@dataclass
class Running:
    """A server that answers."""

    url: str
    server: ImageServer

    def edit(self, prompt: str, picture: Image.Image | None = None, **fields: Any) -> httpx.Response:
        """POST the documented JSON body."""
        body = {"prompt": prompt, "image": as_text(picture or plain()), **fields}
        return httpx.post(f"{self.url}/v1/images/edits", json=body, timeout=60)


@contextmanager
def running(**settings: Any) -> Iterator[Running]:
    """Serve on a free port until the block ends; workers are ready."""
    app = create_app(ServerSettings(**{"worker_slots": 2, "cancel_grace": 0.5, **settings}))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    dispatcher = app.state.server.dispatcher
    # A worker that loads torch takes its time on a busy machine.
    wait_for(lambda: all(worker.ready is not None for worker in dispatcher.workers), 240)
    try:
        yield Running(url, app.state.server)
    finally:
        server.should_exit = True
        thread.join(30)


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    """Return as soon as the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def plain(size: tuple[int, int] = (16, 12), colour: Any = (200, 30, 40)) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", size, colour)


def png(image: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def as_text(image: Image.Image) -> str:
    """A picture as base64."""
    return base64.b64encode(png(image)).decode()


def from_text(text: str) -> Image.Image:
    """The picture of base64."""
    return Image.open(io.BytesIO(base64.b64decode(text)))
