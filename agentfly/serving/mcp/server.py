"""The server of the SDK with our tools: listing, calling, and images as content and as resources."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mcp_types as types
from mcp import MCPError
from mcp.server import Server
from mcp.server.context import ServerRequestContext
from mcp_types.version import is_version_at_least
from PIL import Image

from agentfly import __version__
from agentfly.errors import AgentFlyError, ImageError, ToolError, printable, unknown_name
from agentfly.images import encode_image, on_white
from agentfly.messages import ToolCall
from agentfly.redaction import public_url
from agentfly.serving.mcp.session import Session, Sessions
from agentfly.serving.mcp.settings import SessionLimits
from agentfly.tools import Tool, ToolResult

logger = logging.getLogger(__name__)

SESSION_HEADER = "mcp-session-id"
_SCHEME = "agentfly://images/"
_PNG = "image/png"
# Since this revision a result may link to resources.
_LINKS = "2025-06-18"
# A preview with more bytes as PNG is sent as JPEG.
_PREVIEW_BYTES = 512 * 1024
_INSTRUCTIONS = (
    "Tools that look at images and edit them. Open an image first; it gets an id, such as img_1, by which tools take "
    "it. Tools return new images under new ids. A large image is shown smaller: whole images are resources, "
    f"{_SCHEME}ID."
)

Context = ServerRequestContext[Any, Any]


class ImageToolServer:
    """The handlers of the protocol.

    Args:
        sessions: of the clients.
        limits: of calls and of what they return.
    """

    def __init__(self, sessions: Sessions, limits: SessionLimits) -> None:
        self.sessions, self._limits = sessions, limits
        self._places = asyncio.Semaphore(limits.calls)
        self._waiting = 0
        self.server = Server[Any](
            "agentfly",
            version=__version__,
            instructions=_INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            get_tool_input_schema=lambda _: None,
        )

    def _session(self, context: Context) -> Session:
        # On standard input and output there is one client.
        name = "" if context.request is None else context.request.headers.get(SESSION_HEADER, "")
        return self.sessions.get(name)

    async def _list_tools(self, context: Context, _: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(tool) for tool in self._session(context).tools])

    async def _call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        session = self._session(context)
        if params.name not in session.tools:
            names = [tool.name for tool in session.tools]
            raise MCPError(types.INVALID_PARAMS, _sendable(unknown_name("tool", params.name, names)))
        call = ToolCall("mcp", params.name, params.arguments or {})
        try:
            if len(session.view) >= self._limits.images:
                raise ToolError(
                    f"this session has named {len(session.view)} images, which is all it can: begin another"
                )
            with self._queued():
                async with asyncio.timeout(self._limits.call_seconds), self._places:
                    # The limit is that of the whole call, with its waiting.
                    result = await session.tools.execute(call)
                    return await self._result(result, session, context.protocol_version)
        except TimeoutError:
            return _failed(f"{params.name} did not end within {self._limits.call_seconds:g} s; try a smaller request")
        except AgentFlyError as fault:
            return _failed(public_url(str(fault)))
        except Exception:  # the boundary of a call: the client learns nothing of what is inside
            number = uuid.uuid4().hex[:12]
            logger.exception("call %s of %s failed", number, params.name)
            return _failed(f"internal error {number}; the server's log says more")

    @contextmanager
    def _queued(self) -> Iterator[None]:
        """Refuse a call when too many wait."""
        if self._waiting >= self._limits.calls + self._limits.queue:
            raise AgentFlyError("too many calls wait here: try again in a moment")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _result(self, result: ToolResult, session: Session, version: str) -> types.CallToolResult:
        """Return a result with its images: each named, shown within the size of previews, and linked to."""
        content: list[types.ContentBlock] = [types.TextContent(text=_sendable(result.text))]
        for handle in result.images:
            name = session.view.name(handle)
            image = await asyncio.to_thread(session.store.get, handle)
            data, kind, size = await asyncio.to_thread(_preview, image, self._limits.preview_side)
            smaller = "" if size == image.size else f", shown as {size[0]}x{size[1]}"
            content.append(types.TextContent(text=f"{name}, {image.width}x{image.height}{smaller}:"))
            content.append(types.ImageContent(data=base64.b64encode(data).decode("ascii"), mime_type=kind))
            if is_version_at_least(version, _LINKS):
                content.append(types.ResourceLink(uri=f"{_SCHEME}{name}", name=name, mime_type=_PNG))
        return types.CallToolResult(content=content)

    async def _list_resources(
        self, context: Context, _: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        session = self._session(context)
        held = [name for name in session.view if session.store.held(session.view.handle(name))]
        return types.ListResourcesResult(
            resources=[types.Resource(uri=f"{_SCHEME}{name}", name=name, mime_type=_PNG) for name in held]
        )

    async def _list_templates(
        self, _: Context, __: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        template = types.ResourceTemplate(
            uri_template=f"{_SCHEME}{{id}}", name="image", description="An image by its id.", mime_type=_PNG
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def _read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        session, uri = self._session(context), str(params.uri)
        try:
            if not uri.startswith(_SCHEME):
                raise ImageError(f"resources are images: {_SCHEME}ID")
            with self._queued():
                async with asyncio.timeout(self._limits.call_seconds), self._places:
                    image = await asyncio.to_thread(session.view.get, uri.removeprefix(_SCHEME))
                    data = await asyncio.to_thread(encode_image, image)
        except (AgentFlyError, TimeoutError) as fault:
            raise MCPError(types.INVALID_PARAMS, _sendable(str(fault) or "this image took too long")) from fault
        blob = base64.b64encode(data).decode("ascii")
        return types.ReadResourceResult(contents=[types.BlobResourceContents(uri=uri, mime_type=_PNG, blob=blob)])


def _described(tool: Tool) -> types.Tool:
    schema: Mapping[str, Any] = {**tool.parameters, "additionalProperties": False}
    # Hints and defaults of Python may be what JSON writes in another way.
    plain: dict[str, Any] = json.loads(json.dumps(schema))
    hints = types.ToolAnnotations(read_only_hint=tool.looks, destructive_hint=False, open_world_hint=False)
    return types.Tool(name=tool.name, description=tool.description, input_schema=plain, annotations=hints)


def _failed(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=_sendable(text))], is_error=True)


def _sendable(text: str) -> str:
    """Return a text that every client can read: what a client sent may hold halves of surrogate pairs."""
    return printable(text)


def _preview(image: Image.Image, side: int) -> tuple[bytes, str, tuple[int, int]]:
    """Return an image as a file within a size, its type, and its width and height. The image itself stays as it is."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = encode_image(image)
    if len(data) <= _PREVIEW_BYTES:
        return data, _PNG, image.size
    return encode_image(on_white(image), "jpeg", quality=85), "image/jpeg", image.size
