"""Serve the pages of runs until the process is stopped."""

from __future__ import annotations

import logging
import re
import shlex
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.errors import ConfigError, require
from agentfly.viewer.runs.folder import RunFolder, find_run
from agentfly.viewer.settings import ViewerSettings

if TYPE_CHECKING:
    from agentfly.agents.edit import PolicyOptions
    from agentfly.viewer.attempts import Session

logger = logging.getLogger(__name__)

_SHUTDOWN = 3  # seconds for responses in progress when the viewer is stopped


def find_runs(paths: Sequence[Path]) -> list[RunFolder]:
    """Return the runs of paths, each under a slug of its own.

    Raises:
        ConfigError: a path is no run.
    """
    runs: list[RunFolder] = []
    for path in paths:
        word = re.sub(r"[^a-z0-9]+", "-", path.absolute().name.lower()).strip("-")[:40] or "run"
        runs.append(find_run(path, _slug(word, runs)))
    return runs


def view_command(folder: Path) -> str:
    """Return the line with which a command that wrote a run ends."""
    return f"see it: agentfly view {shlex.quote(str(folder))}"


def _slug(word: str, runs: Sequence[RunFolder]) -> str:
    """Return a slug that none of the runs has: the word, or the word with a number."""
    taken = {run.slug for run in runs}
    return next(name for n in range(1, len(runs) + 2) if (name := word if n == 1 else f"{word}-{n}") not in taken)


def serve(
    runs: Sequence[RunFolder],
    settings: ViewerSettings,
    on_start: Callable[[str], None],
    *,
    policy: PolicyOptions | None = None,
    save: Path | None = None,
    listening: socket.socket | None = None,
) -> None:
    """Serve the pages of runs.

    Args:
        runs: at least one, unless there is a policy.
        settings: of the server.
        on_start: called with the address when the server answers.
        policy: for the page Try; None for none.
        save: folder for what is tried; a temporary one when None.
        listening: socket to answer on, in place of the address in the settings.

    Raises:
        ConfigError: the port is taken, or a package is missing.
        AgentFlyError: the policy cannot be used.
    """
    require("httptools", "the viewer", "serve")
    from agentfly.serving.http_server import make_server
    from agentfly.viewer.opened import Viewer
    from agentfly.viewer.server import create_app

    listening = listening or listen(settings)
    port = listening.getsockname()[1]
    session = None if policy is None else _open_session(runs, settings, policy, save)
    viewer = Viewer(runs if session is None else [*runs, session.run])
    app = create_app(viewer, settings, session)
    # An attempt of the page Try must not keep Ctrl-C waiting.
    options = (app, settings.host, port, settings.connections)
    server = make_server(*options, log_level="warning", timeout_graceful_shutdown=_SHUTDOWN)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    on_start(f"http://{host}:{port}/")
    server.run(sockets=[listening])


def _open_session(
    runs: Sequence[RunFolder], settings: ViewerSettings, policy: PolicyOptions, save: Path | None
) -> Session:
    from agentfly.viewer.attempts import open_session

    return open_session(policy, settings.attempts, save, _slug("try", runs))


def listen(settings: ViewerSettings) -> socket.socket:
    """Return a listening socket: connections that come before the server answers wait for it.

    Raises:
        ConfigError: the address is taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as fault:
        problem = f"{settings.host}:{settings.port} cannot be listened on: {fault.strerror or fault}"
        raise ConfigError(f"{problem}: give --port 0 for a free port") from fault
