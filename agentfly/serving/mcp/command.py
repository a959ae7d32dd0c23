"""The server process of `agentfly mcp`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agentfly.agents.factory import make_agent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.spec import AgentSpec
from agentfly.agents.user_tools import ToolChoice
from agentfly.errors import ConfigError, require
from agentfly.images import ImageStore, ImageView
from agentfly.serving.hosts import is_loopback
from agentfly.serving.mcp.file_tools import FileTools
from agentfly.serving.mcp.session import Sessions
from agentfly.serving.mcp.settings import McpServerSettings
from agentfly.tools import Toolset
from agentfly.vision import Engines
from agentfly.vision.factory import check_keys, make_engines

if TYPE_CHECKING:
    from agentfly.vision.remote import RemoteEngines
    from agentfly.vision.remote.settings import NodeConfig

logger = logging.getLogger(__name__)

EnginesSpec = str | Mapping[str, object] | None


def serve(settings: McpServerSettings, engine: EnginesSpec = None, nodes: Sequence[NodeConfig] = ()) -> None:
    """Serve the tools until the client leaves (standard input and output) or SIGTERM comes (HTTP).

    Args:
        settings: of the server.
        engine: the engines behind the tools, as `make_engines` takes them.
        nodes: image servers; what they do not offer is done by `engine`.

    Raises:
        ConfigError: a tool or an engine cannot be made, or a key is missing.
        MissingExtraError: the SDK is not installed.
    """
    require("mcp", "agentfly mcp", "mcp")
    # The SDK warns of each request that it refuses, which clients can make any number of.
    logging.getLogger("mcp").setLevel(logging.ERROR)
    check_keys(engine)
    if ToolChoice.of(settings.tools or ()).sources:
        raise ConfigError("--tools: servers of others are not passed on; name tools of agentfly and of your own")
    asyncio.run(_serve(settings, engine, nodes))


async def _serve(settings: McpServerSettings, engine: EnginesSpec, nodes: Sequence[NodeConfig]) -> None:
    remote = _remote(nodes, engine, settings)
    try:
        sessions = make_sessions(settings, remote or make_engines(engine))
        await (_serve_stdio if settings.transport == "stdio" else _serve_http)(settings, sessions)
    finally:
        if remote is not None:
            await remote.close()


def _remote(nodes: Sequence[NodeConfig], engine: EnginesSpec, settings: McpServerSettings) -> RemoteEngines | None:
    if not nodes:
        return None
    from agentfly.vision.remote import remote_engines

    otherwise = None if engine is None else make_engines(engine)
    return remote_engines(nodes, timeout=0.9 * settings.limits.call_seconds, otherwise=otherwise)


def make_sessions(settings: McpServerSettings, engines: Engines) -> Sessions:
    """Return the sessions of a server, which are none yet.

    Args:
        settings: of the server.
        engines: behind the tools.

    Raises:
        ConfigError: the agent cannot be made, there is no tool of a name, or two have one name.
    """
    agent = make_agent(
        AgentSpec(agent=settings.agent, tools=settings.tools), "mcp", engines=engines, backend=ScriptedBackend([])
    )

    def make_tools(view: ImageView) -> Toolset:
        # Those that end a chain are left out, as there is none here.
        chosen = agent.tools_for(view)
        return Toolset([*FileTools(view, settings).tools(), *(tool for tool in chosen if not tool.final)])

    make_tools(ImageView(ImageStore()))  # raises now what would else fail every session
    limits = settings.limits
    return Sessions(
        make_tools,
        session_bytes=limits.session_bytes,
        memory_bytes=limits.memory_bytes,
        idle_seconds=limits.idle_seconds,
    )


async def _serve_stdio(settings: McpServerSettings, sessions: Sessions) -> None:
    from mcp.server.stdio import stdio_server

    from agentfly.serving.mcp.server import ImageToolServer

    if sys.stdin.isatty():
        logger.warning("this speaks MCP on standard input and output: let a client start it, or use --transport http")
    # The thread that reads would keep Ctrl-C waiting for a line. There is nothing here that must be finished.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    server = ImageToolServer(sessions, settings.limits).server
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


async def _serve_http(settings: McpServerSettings, sessions: Sessions) -> None:
    from agentfly.serving.http_server import check_port, make_server
    from agentfly.serving.mcp.http import PATH, create_app
    from agentfly.serving.mcp.server import ImageToolServer

    if settings.api_key is None and not is_loopback(settings.host):
        logger.warning("anybody who reaches %s may use this server: set a key with --api-key-env", settings.host)
    check_port(settings.host, settings.port)
    app = create_app(ImageToolServer(sessions, settings.limits), settings)
    server = make_server(
        app,
        settings.host,
        settings.port,
        settings.connections,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    # uvicorn raises the signal again once everything is closed; an orderly end is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logger.info("serving tools on http://%s:%d%s", settings.host, settings.port, PATH)
    await server.serve()
