"""A foreign server as others write them, with the SDK, and with faults: `python foreign_server.py [FAULT]`."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import subprocess
import sys
import time
from typing import Annotated

from mcp.server.mcpserver import Image as SentImage
from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from PIL import Image, ImageOps
from pydantic import Field

server = MCPServer("foreign")
LOOKS = ToolAnnotations(read_only_hint=True)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@server.tool()
def add(a: int, b: Annotated[int, Field(ge=0, description="not negative")] = 1) -> int:
    """Add two numbers."""
    return a + b


@server.tool(annotations=LOOKS)
def swatch(colour: str, side: int = 8) -> SentImage:
    """Show a colour."""
    return SentImage(data=_png(Image.new("RGB", (side, side), colour)), format="png")


@server.tool(structured_output=False)
def invert(picture: str) -> list[object]:
    """Invert a picture, which comes as base64."""
    image = Image.open(io.BytesIO(base64.b64decode(picture.rpartition(",")[2]))).convert("RGB")
    return ["inverted", SentImage(data=_png(ImageOps.invert(image)), format="png")]


@server.tool()
def refuse(reason: str) -> str:
    """Fail."""
    raise ValueError(reason)


@server.tool()
def chatter(characters: int) -> str:
    """Talk a lot."""
    return "x" * characters


@server.tool()
async def slow(seconds: float) -> str:
    """Take time."""
    await asyncio.sleep(seconds)
    return "done"


@server.tool()
def die() -> str:
    """End the server in the middle of a call."""
    print("the last words", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def whereabouts() -> dict[str, object]:
    """Tell the process, its variables, and a child that outlives it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=subprocess.DEVNULL)
    return {"pid": os.getpid(), "child": child.pid, "names": sorted(os.environ)}


if __name__ == "__main__":
    fault = sys.argv[1] if len(sys.argv) > 1 else ""
    if fault == "hang":
        time.sleep(600)
    elif fault == "quit":
        sys.exit("no configuration was found")
    elif fault == "flood":
        sys.stdout.write("x" * 100_000_000)
        sys.stdout.flush()
        time.sleep(600)
    elif fault == "babble":
        sys.stdout.write("x\n" * 20_000)
        sys.stdout.flush()
        time.sleep(600)
    server.run()
