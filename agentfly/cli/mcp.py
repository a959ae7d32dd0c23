"""`agentfly mcp`."""

from __future__ import annotations

import logging
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import typer

from agentfly.cli.options import (
    AgentName,
    Engine,
    Nodes,
    NodesCommand,
    NodesKeyEnv,
    Tools,
    list_choices,
    read_agent,
    read_node_options,
    read_tools,
)
from agentfly.errors import ConfigError
from agentfly.list_options import ANY_VALUE

Transport = Literal["stdio", "http"]
LogLevel = Literal["debug", "info", "warning", "error"]

_MEBI = 2**20


class McpCommand(NodesCommand):
    """A command whose `--tools`, `--root` and `--allowed-hosts` take several values, as `--nodes` does."""

    list_options = MappingProxyType(
        {
            **NodesCommand.list_options,
            "--root": ANY_VALUE,
            "--allowed-hosts": ANY_VALUE,
        }
    )


def mcp(
    agent: AgentName = None,
    tools: Tools = None,
    engine: Engine = None,
    nodes: Nodes = None,
    nodes_key_env: NodesKeyEnv = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER...", help="Folders from which clients may open images by path; default: none."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder into which clients may save images; default: none.")
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Let clients open images from public http(s) addresses.")
    ] = False,
    transport: Annotated[
        Transport,
        typer.Option(metavar="HOW", help="stdio for the client that starts this, http for several clients."),
    ] = "stdio",
    host: Annotated[str, typer.Option(help="Address to listen on (http).")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on (http).")] = 8000,
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Environment variable with the key of clients (http)."),
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="Further names by which clients address this server (http)."),
    ] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Most pixels of an image.")] = 32_000_000,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Largest request and image file, in MiB.")] = 64,
    session_mb: Annotated[
        int,
        typer.Option(min=1, help="Images that a session keeps, in MiB; then it forgets those not used for longest."),
    ] = 512,
    memory_mb: Annotated[int, typer.Option(min=1, help="Images of all sessions together, in MiB.")] = 2048,
    max_sessions: Annotated[int, typer.Option(min=1, help="Sessions at once (http).")] = 256,
    session_minutes: Annotated[float, typer.Option(help="Minutes after which an idle session ends (http).")] = 30.0,
    preview_side: Annotated[int, typer.Option(min=16, help="Longest side of an image in a result, in pixels.")] = 1024,
    request_timeout: Annotated[float, typer.Option(help="Seconds that a call may take.")] = 600.0,
    log_level: Annotated[
        LogLevel, typer.Option(metavar="LEVEL", help=f"Least severe messages to log: {list_choices(LogLevel)}.")
    ] = "warning",
) -> None:
    """Serve the image tools over the Model Context Protocol, to agents and programs of others."""
    from pydantic import SecretStr

    from agentfly.redaction import read_key
    from agentfly.serving.mcp.command import serve
    from agentfly.serving.mcp.settings import McpServerSettings, SessionLimits
    from agentfly.serving.settings import ConnectionLimits
    from agentfly.vision.factory import read_engines

    logging.getLogger("agentfly").setLevel(log_level.upper())
    key = None if api_key_env is None else read_key(api_key_env)
    if api_key_env is not None and not key:
        raise ConfigError(f"--api-key-env {api_key_env}: the environment variable {api_key_env} is not set")
    limits = SessionLimits(
        pixels=max_pixels,
        body_bytes=max_body_mb * _MEBI,
        allow_urls=allow_urls,
        session_bytes=session_mb * _MEBI,
        memory_bytes=memory_mb * _MEBI,
        sessions=max_sessions,
        idle_seconds=60 * session_minutes,
        preview_side=preview_side,
        call_seconds=request_timeout,
    )
    settings = McpServerSettings(
        agent=read_agent(agent),
        tools=read_tools(tools),
        root=tuple(root or ()),
        out=out,
        transport=transport,
        host=host,
        port=port,
        api_key=SecretStr(key) if key else None,
        limits=limits,
        connections=ConnectionLimits(allowed_hosts=tuple(allowed_hosts or ())),
    )
    serve(settings, None if engine is None else read_engines(engine), read_node_options(nodes, nodes_key_env))
