"""Serve the pages of runs until the process is stopped."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from agentfly.errors import ConfigError, require
from agentfly.viewer.runs.folder import RunFolder, find_run
from agentfly.viewer.settings import ViewerSettings

logger = logging.getLogger(__name__)


def find_runs(paths: Sequence[Path]) -> list[RunFolder]:
    """Return the runs of paths, each under a slug of its own.

    Raises:
        ConfigError: a path is no run.
    """
    runs: list[RunFolder] = []
    for path in paths:
        word = re.sub(r"[^a-z0-9]+", "-", path.absolute().name.lower()).strip("-")[:40] or "run"
        taken = {run.slug for run in runs}
        slug = next(name for n in range(1, len(paths) + 2) if (name := word if n == 1 else f"{word}-{n}") not in taken)
        runs.append(find_run(path, slug))
    return runs


def serve(runs: Sequence[RunFolder], settings: ViewerSettings, on_start: Callable[[str], None]) -> None:
    """Serve the pages of runs.

    Args:
        runs: at least one.
        settings: of the server.
        on_start: called with the address when the server answers.

    Raises:
        ConfigError: the port is taken, or a package is missing.
    """
    require("httptools", "the viewer", "serve")
    from agentfly.serving.http_server import make_server
    from agentfly.viewer.opened import Viewer
    from agentfly.viewer.server import create_app

    listening = _listen(settings)
    port = listening.getsockname()[1]
    server = make_server(
        create_app(Viewer(runs), settings), settings.host, port, settings.connections, log_level="warning"
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    on_start(f"http://{host}:{port}/")
    server.run(sockets=[listening])


def _listen(settings: ViewerSettings) -> socket.socket:
    """Return a listening socket: connections that come before the server answers wait for it."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as fault:
        problem = f"{settings.host}:{settings.port} cannot be listened on: {fault.strerror or fault}"
        raise ConfigError(f"{problem}: give --port 0 for a free port") from fault
