"""Images, engines that keep what they are asked, and a chat server that calls tools."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image, ImageDraw

from agentfly.datasets.photos import load_photo
from agentfly.vision.base import Detection, EditParams, Engines, InpaintParams
from tests.unit.agents.conftest import Reply, delta, stream


@pytest.fixture
def photo() -> Image.Image:
    """A photograph with a red circle on it, which the embedded engines can find."""
    image = load_photo("coffee.png").resize((240, 160))
    ImageDraw.Draw(image).ellipse((150, 50, 210, 110), "red", "white", 3)
    return image


def png(image: Image.Image) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def calls(*wanted: tuple[str, dict[str, Any]]) -> Reply:
    """A streamed turn that calls tools natively."""
    listed = [
        {"index": i, "id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}
        for i, (name, args) in enumerate(wanted)
    ]
    return stream(delta(content="On it. "), delta(tool_calls=listed), delta("tool_calls"))


@dataclass
class Recorder:
    """Engines that paint everything blue and keep what they were asked."""

    name: str = "recorder"
    seen: list[tuple[Any, ...]] = field(default_factory=list)

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Sequence[Detection]:
        self.seen.append(("detect", prompt, box_threshold, text_threshold))
        mask = Image.new("L", image.size)
        mask.paste(255, (20, 20, 40, 40))
        return [Detection(prompt, 0.9, (20, 20, 40, 40), mask)]

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        self.seen.append(("inpaint", mask, prompt, params))
        return Image.new("RGB", image.size, "blue")

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        self.seen.append(("edit", instruction, params))
        return Image.new("RGB", image.size, "green")

    def engines(self) -> Engines:
        """All three in one."""
        return Engines(self, self, self)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def photo_url(photo: Image.Image) -> Iterator[str]:
    """The photograph on a web server of this machine."""
    body = png(photo)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/demo.jpeg"
        server.shutdown()
        thread.join(10)
