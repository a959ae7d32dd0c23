"""A server of image tools in this process, and what its replies hold."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp_types as types
from mcp import Client
from PIL import Image
from starlette.types import ASGIApp

from agentfly.serving.http_server import make_server
from agentfly.serving.mcp.command import make_sessions
from agentfly.serving.mcp.http import create_app
from agentfly.serving.mcp.server import ImageToolServer
from agentfly.serving.mcp.settings import McpServerSettings, SessionLimits
from agentfly.serving.settings import ConnectionLimits
from agentfly.vision.classical import classical_engines

RED = Image.new("RGB", (8, 8), "red")


def made(limits: dict[str, Any] | None = None, **settings: Any) -> tuple[ImageToolServer, McpServerSettings]:
    """Return a server and its settings."""
    chosen = McpServerSettings(limits=SessionLimits(**(limits or {})), **settings)
    sessions = make_sessions(chosen, classical_engines())
    return ImageToolServer(sessions, chosen.limits), chosen


@asynccontextmanager
async def client(limits: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Client]:
    """Yield a client of a server without a network."""
    async with Client(made(limits, **settings)[0].server) as connected:
        yield connected


@asynccontextmanager
async def over_http(
    limits: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[str, ImageToolServer]]:
    """Yield the address of a server, and the server."""
    tools, chosen = made(limits, **settings)
    async with listening(create_app(tools, chosen), chosen.connections) as address:
        yield f"{address}/mcp", tools


@asynccontextmanager
async def listening(app: ASGIApp, connections: ConnectionLimits | None = None) -> AsyncIterator[str]:
    """Yield the address of a server of any application."""
    server = make_server(app, "127.0.0.1", 0, connections or ConnectionLimits(), log_level="error", lifespan="auto")
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


def base64_of(image: Image.Image) -> str:
    """Return the base64 of an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def text_of(result: types.CallToolResult) -> str:
    """Return the words of a result."""
    return "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))


def images_of(result: types.CallToolResult) -> list[Image.Image]:
    """Return the images of a result."""
    found = [block.data for block in result.content if isinstance(block, types.ImageContent)]
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


async def opened(connected: Client, image: Image.Image | str | Path) -> types.CallToolResult:
    """Open an image on a server."""
    return await connected.call_tool(
        "open_image", {"source": base64_of(image) if isinstance(image, Image.Image) else str(image)}
    )
