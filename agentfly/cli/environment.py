"""`agentfly serve-openenv`."""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from agentfly.cli.evaluate import Data, Limit, Root, Split
from agentfly.cli.options import Engine, Nodes, NodesCommand, NodesKeyEnv, output_option, read_node_options
from agentfly.list_options import ANY_VALUE


class ServeOpenEnvCommand(NodesCommand):
    """A command whose `--nodes` and `--allowed-hosts` take several values."""

    list_options = MappingProxyType[str, re.Pattern[str]]({**NodesCommand.list_options, "--allowed-hosts": ANY_VALUE})


def serve_openenv(
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of these settings, and of agent, tools, evaluator, reward and limits."),
    ] = None,
    data: Data = None,
    split: Split = None,
    limit: Limit = None,
    seed: Annotated[int | None, typer.Option(help="Seed of generated data.")] = None,
    root: Root = None,
    engine: Engine = None,
    nodes: Nodes = None,
    nodes_key_env: NodesKeyEnv = None,
    log_dir: Annotated[Path | None, output_option("--log-dir", help="Folder that keeps the trajectories.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    max_sessions: Annotated[int, typer.Option(help="Most sessions at once; further ones are refused.")] = 64,
    session_timeout: Annotated[
        float, typer.Option(help="Seconds after its last step in which a session keeps its place.")
    ] = 1800.0,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="Further names by which clients address this server; * for any."),
    ] = None,
) -> None:
    """Serve the editing environment to clients of OpenEnv, for other trainers."""
    given = {"data": data, "split": split, "limit": limit, "seed": seed, "root": root, "log_dir": log_dir}
    from agentfly.environments.openenv import ServerSettings, run_server
    from agentfly.environments.settings import read_settings
    from agentfly.serving.settings import ConnectionLimits

    servers = read_node_options(nodes, nodes_key_env)
    settings = read_settings(config, {**given, "engine": engine}, [node.to_spec() for node in servers])
    server = ServerSettings(
        max_sessions=max_sessions,
        session_timeout=session_timeout,
        connections=ConnectionLimits(allowed_hosts=tuple(allowed_hosts or ())),
    )
    run_server(settings, server, host, port)
