"""Supervision of one server process: it is started, announced when it answers, sent signals, and never left behind."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx

from agentfly import cleanup
from agentfly.errors import ConfigError
from agentfly.process_tree import end_with_parent

logger = logging.getLogger(__name__)

_FORWARDED = (signal.SIGINT, signal.SIGTERM)
_PROBE_SECONDS = 5.0
_CHECK_SECONDS = 0.25
# Seconds that a server with requests under way may take to stop.
STOP_PATIENCE = 60.0


@dataclass(frozen=True)
class Endpoint:
    """The address of a server.

    Attributes:
        host, port: address that it listens on.
        api_key: for `/v1/models`; None when it wants none.
        secure: True if it speaks TLS.
    """

    host: str
    port: int
    api_key: str | None = field(default=None, repr=False)
    secure: bool = False

    @property
    def url(self) -> str:
        """Address to call; it differs from the one to listen on where that means any address."""
        host = self._address()
        return f"{'https' if self.secure else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    def check_free(self) -> None:
        """Check that no server listens there yet, as its health would be taken for ours.

        Raises:
            ConfigError: the port is taken.
        """
        with suppress(OSError), socket.create_connection((self._address(), self.port), timeout=1.0):
            raise ConfigError(f"port {self.port} is taken by another server; stop it, or choose another --port")

    def healthy(self) -> bool:
        """Return True if `/health` answers 200."""
        return self._get("/health") is not None

    def models(self) -> list[str]:
        """Return the ids that `/v1/models` lists; none if it does not answer."""
        try:
            return [str(model["id"]) for model in json.loads(self._get("/v1/models") or b"{}")["data"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            return []

    def _address(self) -> str:
        return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    def _get(self, path: str) -> bytes | None:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        try:
            # The certificate names the host of its users, not this loopback.
            reply = httpx.get(
                self.url.removesuffix("/v1") + path,
                headers=headers,
                timeout=_PROBE_SECONDS,
                verify=False,
                trust_env=False,
            )
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        return reply.content if reply.status_code == 200 else None


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    endpoint: Endpoint,
    start_timeout: float | None,
    scratch: Path,
) -> int:
    """Run a server until it ends, and return its exit code.

    Args:
        command: program and arguments; no shell is involved.
        environment: of the process.
        endpoint: address of the server.
        start_timeout: seconds until it must answer; None for a process that never answers.
        scratch: folder for temporary files; it is removed if this process is killed.

    Returns:
        The exit code of the server, 128 + n if signal n ended it, 1 if it did not start in time.

    Raises:
        ConfigError: the port is taken.
    """
    if start_timeout is not None:
        endpoint.check_free()
    parent = os.getpid()
    process = subprocess.Popen(
        command, env=dict(environment), start_new_session=True, preexec_fn=lambda: _die_with(parent)
    )
    # The kernel ends the server alone when this process is killed. What the server has started is ended by a process
    # that waits for that; it knows them by their session.
    guard = cleanup.start(f"deploy-{parent}", process.pid, scratch)
    watch = _Watch(process, endpoint, start_timeout)
    try:
        with watch.forward_signals():
            while True:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(_CHECK_SECONDS)
                    break
                watch.check()
    finally:
        # Workers of a server that died are still in its group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        cleanup.stop(guard)
    if watch.gave_up:
        return 1
    return 128 - code if code < 0 else code


class _Watch:
    """The state of the process as far as it is known.

    Attributes:
        gave_up: True once the process was stopped because it did not start in time.
    """

    def __init__(self, process: subprocess.Popen[bytes], endpoint: Endpoint, start_timeout: float | None) -> None:
        self._process, self._endpoint, self._limit = process, endpoint, start_timeout
        self._begun = time.monotonic()
        self._ready = start_timeout is None
        self._stopping_since: float | None = None
        self.gave_up = False

    def check(self) -> None:
        """Announce a server when it first answers; end one that does not start or does not stop in time."""
        now = time.monotonic()
        if self._stopping_since is not None:
            if now - self._stopping_since > STOP_PATIENCE:
                logger.warning("the server did not stop within %g s and is killed", STOP_PATIENCE)
                os.killpg(self._process.pid, signal.SIGKILL)
        elif self._ready:
            return
        elif self._endpoint.healthy():
            self._ready = True
            models = ", ".join(self._endpoint.models()) or "(it does not list its models)"
            logger.info("ready after %.1f s at %s, serving %s", now - self._begun, self._endpoint.url, models)
        elif self._limit is not None and now - self._begun > self._limit:
            logger.error(
                "the server did not answer within %g s; read its log above, or raise --start-timeout", self._limit
            )
            self.gave_up = True
            self._send(signal.SIGTERM)

    @contextmanager
    def forward_signals(self) -> Iterator[None]:
        """Send signals on to the process meanwhile."""

        def forward(number: int, frame: FrameType | None) -> None:
            self._send(number)

        before = {number: signal.signal(number, forward) for number in _FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _send(self, number: int) -> None:
        self._stopping_since = self._stopping_since or time.monotonic()
        self._process.send_signal(number)


def _die_with(parent: int) -> None:
    """In the child: have the kernel end this process when its parent dies, however that happens (Linux)."""
    end_with_parent()
    if sys.platform == "linux" and os.getppid() != parent:
        os._exit(1)
