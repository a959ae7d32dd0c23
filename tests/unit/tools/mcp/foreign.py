"""Settings of the foreign server of these tests, and its tools on a view."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agentfly.images import ImageStore, ImageView
from agentfly.tools import Toolset
from agentfly.tools.mcp import McpServer, McpTools

PROGRAM = Path(__file__).with_name("foreign_server.py")


def foreign(fault: str = "", **options: Any) -> McpServer:
    """Return the settings of the server as a program, perhaps with a fault at its start."""
    options = {"images": {"invert": ("picture",)}, "start_timeout": 60, **options}
    return McpServer(command=sys.executable, args=(str(PROGRAM), *filter(None, [fault])), **options)


@asynccontextmanager
async def connected(server: McpServer, view: ImageView | None = None) -> AsyncIterator[Toolset]:
    """Yield the tools of a server."""
    async with McpTools(server) as source:
        yield Toolset(source.tools(view or ImageView(ImageStore())))
