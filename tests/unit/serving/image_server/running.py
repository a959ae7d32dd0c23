"""An image server with real worker processes, its HTTP side in a thread of the test's own process."""

from __future__ import annotations

import base64
import io
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import httpx
from PIL import Image
from typer.testing import CliRunner

from agentfly.cli import app
from agentfly.serving.http_server import make_server
from agentfly.serving.image_server import ServerSettings
from agentfly.serving.image_server.http.app import count_refusal, create_app
from agentfly.serving.image_server.http.endpoints import ImageServer

PUPPET = {"model_type": "custom", "model_path": "tests.unit.serving.image_server.custom_engines:puppet"}
BANDS = {"model_type": "custom", "model_path": "tests.unit.serving.image_server.custom_engines:bands"}


@dataclass
class Running:
    """A server that answers."""

    url: str
    server: ImageServer

    def metric(self, name: str, **labels: object) -> float:
        """Return the value of a sample at `/metrics`, 0 where there is none."""
        found = {label: str(value) for label, value in labels.items()}
        return self.server.dispatcher.metrics.registry.get_sample_value(f"agentfly_image_{name}", found) or 0.0

    def edit(self, prompt: str, image: Image.Image | None = None, **fields: Any) -> httpx.Response:
        """Post the documented JSON body."""
        body = {"prompt": prompt, "image": as_text(image or plain()), **fields}
        return httpx.post(f"{self.url}/v1/images/edits", json=body, timeout=60)


def read(*options: str) -> ServerSettings:
    """Return the settings that `agentfly serve-images` makes of its options, without serving.

    Raises:
        ConfigError: the options are wrong.
    """
    with patch("agentfly.serving.image_server.command.serve") as serve:
        shown = CliRunner().invoke(app, ["serve-images", *options])
    if shown.exception is not None:
        raise shown.exception
    settings: ServerSettings = serve.call_args.args[0]
    return settings


@contextmanager
def running(**settings: Any) -> Iterator[Running]:
    """Serve on a free port until the block ends; workers are ready."""
    chosen = ServerSettings(**{"worker_slots": 2, "cancel_grace": 0.5, **settings})
    served = create_app(chosen)
    refused = partial(count_refusal, served.state.server.dispatcher.metrics)
    server = make_server(served, chosen.host, 0, chosen.connections, refused, log_level="error")
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    dispatcher = served.state.server.dispatcher
    # A worker that loads torch takes its time on a busy machine.
    wait_for(lambda: all(worker.ready is not None for worker in dispatcher.workers), 240)
    try:
        yield Running(url, served.state.server)
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def command(line: str, workers: int = 1, port: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a documented command line on a free port; yield its process and the address that answers."""
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    python, *words = shlex.split(line)
    assert python == "python"
    with tempfile.TemporaryFile() as log:
        # Of two equal options the last one counts.
        process = subprocess.Popen([sys.executable, *words, "--port", str(port)], stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            # A worker that loads torch takes its time on a busy machine.
            wait_for(lambda: process.poll() is not None or _workers_ready(url) == workers, 240)
            if process.poll() is not None:
                log.seek(0)
                raise AssertionError(f"the command ended: {log.read().decode()[-3000:]}")
            yield process, url
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()
                process.wait()


def _workers_ready(url: str) -> int:
    try:
        states: list[str] = httpx.get(f"{url}/health", timeout=2).json()["workers"]
    except httpx.HTTPError:
        return 0
    return states.count("ready")


def wait_for(condition: Any, seconds: float = 60.0, every: float = 0.01) -> None:
    """Return as soon as the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(every)


def plain(size: tuple[int, int] = (16, 12), colour: Any = (200, 30, 40)) -> Image.Image:
    """Return an image of one colour."""
    return Image.new("RGB", size, colour)


def png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def as_text(image: Image.Image) -> str:
    """Return an image as base64 of a PNG file."""
    return base64.b64encode(png(image)).decode()


def from_text(text: str) -> Image.Image:
    """Return the image of a base64 text."""
    return Image.open(io.BytesIO(base64.b64decode(text)))
