"""MCP over HTTP: sessions see their own images alone, and the checks of our servers stand before the SDK."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import AsyncExitStack
from typing import Any

import httpx
import mcp_types as types
import pytest
from mcp import Client
from PIL import Image
from pydantic import SecretStr

from agentfly.errors import ToolError, ToolOutage
from agentfly.images import ImageStore, ImageView
from agentfly.serving.settings import ConnectionLimits
from agentfly.tools import Toolset
from agentfly.tools.mcp import McpServer, McpTools
from tests.unit.serving.mcp.serving import RED, base64_of, images_of, listening, opened, over_http, text_of

HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


def message(method: str, number: int = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


INITIALIZE = message(
    "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "test", "version": "1"}
)


async def post(url: str, body: object, headers: dict[str, str] | None = None) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await client.post(url, content=content, headers={**HEADERS, **(headers or {})})


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_client_of_the_sdk_works_whatever_revision_it_asks_for_first(mode: str) -> None:
    async with over_http() as (url, _), Client(url, mode=mode) as connected:
        assert connected.protocol_version == "2025-11-25"
        assert text_of(await opened(connected, Image.new("RGB", (32, 32), (40, 40, 40)))).startswith("img_1: 32x32")
        edited = await connected.call_tool("qwen_edit_image", {"image_id": "img_1", "prompt": "make it brighter"})
        assert [image.size for image in images_of(edited)] == [(32, 32)]


async def test_a_client_that_insists_on_the_revision_without_sessions_is_told_the_others() -> None:
    async with over_http() as (url, _):
        reply = await post(url, message("tools/list"), {"MCP-Protocol-Version": "2026-07-28"})
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == types.UNSUPPORTED_PROTOCOL_VERSION
        assert "2025-11-25" in reply.json()["error"]["data"]["supported"]


async def test_sessions_see_their_own_images_alone() -> None:
    async with over_http() as (url, server), Client(url) as one, Client(url) as two:
        await opened(one, RED)
        assert text_of(await opened(two, Image.new("RGB", (9, 9), "blue"))).startswith("img_1: 9x9")
        for connected, side in ((one, 8), (two, 9)):
            assert [r.name for r in (await connected.list_resources()).resources] == ["img_1"]
            result = await connected.call_tool("open_image", {"source": base64_of(Image.new("L", (side, side)))})
            assert text_of(result).startswith(f"img_2: {side}x{side}")
        assert len(server.sessions) == 2
    assert len(server.sessions) == 0, "clients end their sessions when they leave"
    assert server.sessions.budget.used == 0


async def test_a_flood_of_sessions_is_refused_and_those_that_are_open_go_on() -> None:
    async with over_http({"sessions": 3}) as (url, _), AsyncExitStack() as stack:
        connected = await stack.enter_async_context(Client(url, mode="legacy"))
        replies = await asyncio.gather(*(post(url, INITIALIZE) for _ in range(10)))
        assert sorted(reply.status_code for reply in replies) == [200] * 2 + [503] * 8
        assert text_of(await opened(connected, RED)).startswith("img_1")
        assert (await post(url, INITIALIZE)).status_code == 503


async def test_an_idle_session_ends_with_its_images() -> None:
    async with over_http({"idle_seconds": 0.2}) as (url, server):
        first = await post(url, INITIALIZE)
        session = {"Mcp-Session-Id": first.headers["Mcp-Session-Id"]}
        opening = message("tools/call", 2, name="open_image", arguments={"source": base64_of(RED)})
        assert (await post(url, opening, session)).json()["result"]["isError"] is False
        assert server.sessions.budget.used > 0
        async with asyncio.timeout(10):
            while (await post(url, message("tools/list"), session)).status_code != 404 or len(server.sessions):
                await asyncio.sleep(0.5)
        assert server.sessions.budget.used == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "pictures.example"}, 200),
        ({"Origin": "http://localhost:3000"}, 200),
    ],
)
async def test_web_pages_of_others_and_other_names_are_refused(headers: dict[str, str], status: int) -> None:
    allowed = ConnectionLimits(allowed_hosts=("pictures.example",))
    async with over_http(connections=allowed) as (url, _):
        assert (await post(url, INITIALIZE, headers)).status_code == status


async def test_a_key_is_asked_for_where_the_operator_has_set_one() -> None:
    async with over_http(api_key=SecretStr("k-123")) as (url, _):
        for headers in ({}, {"Authorization": "Bearer k-124"}, {"Authorization": "Basic k-123"}):
            reply = await post(url, INITIALIZE, headers)
            assert reply.status_code == 401
            assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert (await post(url, INITIALIZE, {"Authorization": "Bearer k-123"})).status_code == 200


async def test_bodies_beyond_the_bounds_are_refused() -> None:
    async with over_http({"body_bytes": 400_000}) as (url, server):
        assert (await post(url, b"x" * 400_001)).status_code == 413
        assert (await post(url, b"[" * 150_000)).json()["error"]["code"] == "too_many_values"

        async def chunks() -> Any:
            for _ in range(5):
                yield b" " * 100_000

        async with httpx.AsyncClient() as client:
            assert (await client.post(url, content=chunks(), headers=HEADERS)).status_code == 413
        assert (await post(url, b'{"jsonrpc": "2.0"')).status_code == 400
        assert (await post(url, message("tools/list"))).status_code == 400, "without a session"
        assert (await post(url, message("tools/list"), {"Mcp-Session-Id": "guessed"})).status_code == 404
        assert len(server.sessions) == 0
        assert (await post(url, INITIALIZE)).status_code == 200


async def test_our_tools_in_an_agent_of_ours_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLS_KEY", "k-123")
    view = ImageView(ImageStore())
    view.add(RED)
    async with over_http(api_key=SecretStr("k-123")) as (url, _):
        server = McpServer(url=url, key_env="TOOLS_KEY", images={"open_image": ("source",)}, prefix="far_")
        async with McpTools(server) as source:
            tools = {tool.name: tool for tool in Toolset(source.tools(view))}
            sent = await tools["far_open_image"]({"source": "img_1"})
            assert sent.text.startswith("img_1: 8x8")
            assert sent.images == (view.handle("img_1"),), "the same image has the same name"
            assert tools["far_open_image"].description.startswith("Open an image")


async def test_a_server_that_forgot_the_session_is_connected_to_again() -> None:
    async with over_http() as (url, server), McpTools(McpServer(url=url)) as source:
        (tool, *_) = source.tools(ImageView(ImageStore()))
        async with httpx.AsyncClient() as client:
            (name,) = server.sessions._sessions
            await client.delete(url, headers={**HEADERS, "Mcp-Session-Id": name})
        with pytest.raises(Exception, match="started again"):
            await tool({"source": base64_of(RED)})
        assert "img_1" in (await tool({"source": base64_of(RED)})).text


async def test_an_address_where_nobody_or_somebody_else_answers_is_an_outage_with_the_reason() -> None:
    with pytest.raises(Exception, match=r"does not speak MCP.*check its address"):
        await McpTools(McpServer(url="http://127.0.0.1:9/mcp")).prepare()
    async with over_http(api_key=SecretStr("k-123")) as (url, _):
        with pytest.raises(Exception, match="does not speak MCP") as told:
            await McpTools(McpServer(url=url)).prepare()
        assert "k-123" not in str(told.value)


async def test_a_reply_beyond_the_bound_is_not_read_to_its_end() -> None:
    noise = base64_of(Image.effect_noise((300, 300), 90))
    async with over_http() as (url, _):
        for most, fails in ((20_000, True), (2_000_000, False)):
            async with McpTools(McpServer(url=url, max_message_bytes=most)) as source:
                (tool, *_) = source.tools(ImageView(ImageStore()))
                if fails:
                    with pytest.raises(ToolError, match="MCP server"):
                        await tool({"source": noise})
                else:
                    assert "img_1: 300x300" in (await tool({"source": noise})).text


async def test_a_reply_that_is_compressed_unasked_is_refused() -> None:
    async def bomb(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": gzip.compress(bytes(1_000_000))})

    async with listening(bomb) as address:
        with pytest.raises(ToolOutage, match="does not speak MCP"):
            await McpTools(McpServer(url=f"{address}/mcp")).prepare()


async def test_a_call_whose_server_goes_away_is_an_observation() -> None:
    async with over_http() as (url, _):
        source = McpTools(McpServer(url=url))
        await source.prepare()
        (tool, *_) = source.tools(ImageView(ImageStore()))
    with pytest.raises(Exception, match="MCP server"):
        await tool({"source": base64_of(RED)})
    await source.close()


@pytest.mark.slow
async def test_resources_larger_than_an_event_of_a_stream_are_read() -> None:
    noise = Image.effect_noise((1500, 1500), 90)
    async with over_http() as (url, _), Client(url) as connected:
        await opened(connected, noise)
        (whole,) = (await connected.read_resource("agentfly://images/img_1")).contents
        assert isinstance(whole, types.BlobResourceContents)
        assert len(whole.blob) > 2_000_000


async def test_requests_with_one_id_do_not_keep_their_places_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentfly.serving.mcp.http._SLACK", 0.5)
    headers = {"Accept": "application/json, text/event-stream"}
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    call = {"name": "open_image", "arguments": {"source": base64_of(RED)}}
    async with over_http({"call_seconds": 1.0}) as (address, _), httpx.AsyncClient(timeout=20) as connected:

        async def post(method: str, params: object) -> httpx.Response:
            message = {"jsonrpc": "2.0", "id": 5, "method": method, "params": params}
            return await connected.post(address, json=message, headers=headers)

        begun = await post("initialize", about)
        headers["Mcp-Session-Id"] = begun.headers["Mcp-Session-Id"]
        answers = await asyncio.gather(*(post("tools/call", call) for _ in range(3)))
    assert {answer.status_code for answer in answers} <= {200, 504}
