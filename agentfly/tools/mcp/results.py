"""Results of foreign tools as observations: text within a bound, images loaded within limits and named in the chain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
from PIL import Image

from agentfly.errors import ImageError, ToolError, shortened
from agentfly.images import ImageLimits, ImageView, data_uri, from_base64, to_base64
from agentfly.tools.decorator import ToolResult
from agentfly.tools.mcp.settings import McpServer

_MOST_BLOCKS = 64
# What is kept of structured results in the record of a call.
_MOST_DATA = 100_000


@dataclass
class _Observation:
    """The parts of an observation as they are read.

    Attributes:
        view: of the chain.
        kind: first part of the names of new images.
        left: characters, and images, that may still come.
    """

    view: ImageView
    kind: str
    left: int
    images_left: int
    limits: ImageLimits
    parts: list[str] = field(default_factory=list)
    handles: list[str] = field(default_factory=list)
    cut: int = 0

    def add_text(self, text: str) -> None:
        kept = text[: self.left]
        self.left -= len(kept)
        self.cut += len(text) - len(kept)
        if kept:
            self.parts.append(kept)

    async def add_image(self, data: str) -> None:
        if self.images_left <= 0:
            self.parts.append("(a further image is left out)")
            return
        self.images_left -= 1
        try:
            image = await asyncio.to_thread(from_base64, data, self.limits)
        except ImageError as fault:
            self.parts.append(f"(an image that cannot be used: {fault})")
            return
        handle = await asyncio.to_thread(self.view.store.put, image)
        self.parts.append(self.view.add_handle(handle, self.kind))
        self.handles.append(handle)


async def observation(
    result: types.CallToolResult, server: McpServer, view: ImageView, limits: ImageLimits, *, looks: bool
) -> ToolResult:
    """Return the observation of a result; its images are stored and named.

    Args:
        result: of the server.
        server: has the limits of text and images.
        view: of the chain.
        limits: of each image.
        looks: the tool only looks, so its images are views.

    Raises:
        ToolError: the result is one of a failure; the message is the server's.
    """
    read = _Observation(view, "view" if looks else "img", server.max_text, server.max_images, limits)
    for block in result.content[:_MOST_BLOCKS]:
        await _read_block(block, read)
    if len(result.content) > _MOST_BLOCKS:
        read.parts.append(f"({len(result.content) - _MOST_BLOCKS} further parts are left out)")
    structured = result.structured_content
    if structured is not None and not read.parts:
        read.add_text(json.dumps(structured, ensure_ascii=False))
    if read.cut:
        read.parts.append(f"({read.cut} further characters are left out)")
    text = "\n".join(read.parts)
    if result.is_error:
        raise ToolError(text or "the tool failed and gave no reason")
    return ToolResult(text or "done", tuple(read.handles), f"mcp:{server.short_name}", data=_data(structured))


async def _read_block(block: types.ContentBlock, read: _Observation) -> None:
    if isinstance(block, types.TextContent):
        read.add_text(block.text)
    elif isinstance(block, types.ImageContent):
        await read.add_image(block.data)
    elif isinstance(block, types.EmbeddedResource):
        resource = block.resource
        if isinstance(resource, types.TextResourceContents):
            read.add_text(resource.text)
        elif (resource.mime_type or "").startswith("image/"):
            await read.add_image(resource.blob)
        else:
            read.add_text(f"(a file of {len(resource.blob) * 3 // 4} bytes: {shortened(str(resource.uri))})")
    elif isinstance(block, types.ResourceLink):
        read.add_text(f"(more at {shortened(str(block.uri), 200)})")
    else:
        read.add_text("(a sound, which cannot be heard here)")


def _data(structured: object) -> Mapping[str, Any]:
    if not isinstance(structured, Mapping) or len(json.dumps(structured)) > _MOST_DATA:
        return {}
    return dict(structured)


async def with_images(
    arguments: Mapping[str, object], images: frozenset[str], server: McpServer, view: ImageView
) -> dict[str, object]:
    """Return arguments in which the ids of images are replaced by the images.

    Args:
        arguments: checked.
        images: names of the arguments that are images.
        server: has the form in which it takes images.
        view: of the chain.

    Raises:
        ToolError: there is no image of an id.
        ImageError: an image is lost.
    """

    async def encoded(image_id: object) -> object:
        if isinstance(image_id, list):
            return [await encoded(item) for item in image_id]
        try:
            handle = view.handle(str(image_id))
        except ImageError as fault:
            raise ToolError(str(fault)) from fault
        return await asyncio.to_thread(_encode, view, handle, server)

    return {name: await encoded(value) if name in images else value for name, value in arguments.items()}


def _encode(view: ImageView, handle: str, server: McpServer) -> str:
    image: Image.Image = view.store.get(handle)
    return data_uri(image) if server.image_form == "data-uri" else to_base64(image)
