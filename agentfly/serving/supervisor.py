"""Run one server process: start it, wait until it answers, pass signals on, and never leave it behind."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

from agentfly.errors import ConfigError

_FORWARDED = (signal.SIGINT, signal.SIGTERM)
_PROBE_SECONDS = 5.0
# What a server that was told to stop may take, with requests under way.
STOP_PATIENCE = 60.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Endpoint:
    """Where a server answers.

    Attributes:
        host: address that it listens on.
        port: likewise.
        api_key: for `/v1/models`; None when it wants none.
        secure: whether it speaks TLS.
    """

    host: str
    port: int
    api_key: str | None = field(default=None, repr=False)
    secure: bool = False

    @property
    def url(self) -> str:
        """Address to call, which is not always the one to listen on."""
        host = self._address()
        return f"{'https' if self.secure else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    def check_free(self) -> None:
        """Check that nobody listens there yet: another server's health must not be taken for ours.

        Raises:
            ConfigError: somebody does.
        """
        with suppress(OSError), socket.create_connection((self._address(), self.port), timeout=1.0):
            raise ConfigError(f"port {self.port} is taken by another server; stop it, or choose another --port")

    def healthy(self) -> bool:
        """Whether `/health` answers 200."""
        return self._get("/health") is not None

    def models(self) -> list[str]:
        """Ids that `/v1/models` lists; empty when it does not say."""
        try:
            return [str(model["id"]) for model in json.loads(self._get("/v1/models") or b"{}")["data"]]
        except (ValueError, KeyError, TypeError):
            return []

    def _address(self) -> str:
        return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    def _get(self, path: str) -> bytes | None:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        connection = self._connection()
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.read() if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self.secure:
            return http.client.HTTPConnection(self._address(), self.port, timeout=_PROBE_SECONDS)
        # The certificate names the host of its users, not this loopback.
        anyone = ssl._create_unverified_context()
        return http.client.HTTPSConnection(self._address(), self.port, timeout=_PROBE_SECONDS, context=anyone)


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    endpoint: Endpoint,
    start_timeout: float | None,
    *,
    pause: float = 0.25,
) -> int:
    """Run a server to its end.

    Args:
        command: program and arguments; no shell is involved.
        environment: of the process.
        endpoint: where it will answer.
        start_timeout: seconds until then; None for a process that never answers.
        pause: seconds between two looks at it.

    Returns:
        Its exit code, 128 + n if signal n ended it, 1 if it did not start in time.

    Raises:
        ConfigError: the port is taken.
    """
    if start_timeout is not None:
        endpoint.check_free()
    parent = os.getpid()
    process = subprocess.Popen(
        command, env=dict(environment), start_new_session=True, preexec_fn=lambda: _die_with(parent)
    )
    watch = _Watch(process, endpoint, start_timeout)
    try:
        with watch.signals():
            while True:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(pause)
                    break
                watch.look()
    finally:
        # Workers of a server that died are still in its group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if watch.gave_up:
        return 1
    return 128 - code if code < 0 else code


class _Watch:
    """What is known of the process so far."""

    def __init__(self, process: subprocess.Popen[bytes], endpoint: Endpoint, start_timeout: float | None) -> None:
        self._process, self._endpoint, self._limit = process, endpoint, start_timeout
        self._begun = time.monotonic()
        self._ready = start_timeout is None
        self._told: float | None = None
        self.gave_up = False

    def look(self) -> None:
        """Announce a server that has come to answer; end one that does not start or does not stop."""
        now = time.monotonic()
        if self._told is not None:
            if now - self._told > STOP_PATIENCE:
                _say(f"the server did not stop within {STOP_PATIENCE:g} s and is killed")
                os.killpg(self._process.pid, signal.SIGKILL)
        elif self._ready:
            return
        elif self._endpoint.healthy():
            self._ready = True
            models = ", ".join(self._endpoint.models()) or "(it does not list its models)"
            _say(f"ready after {now - self._begun:.1f} s at {self._endpoint.url}, serving {models}")
        elif self._limit is not None and now - self._begun > self._limit:
            _say(f"the server did not answer within {self._limit:g} s; read its log above, or raise --start-timeout")
            self.gave_up = True
            self._tell(signal.SIGTERM)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Hand signals on to the process meanwhile."""

        def forward(number: int, frame: FrameType | None) -> None:
            self._tell(number)

        before = {number: signal.signal(number, forward) for number in _FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _tell(self, number: int) -> None:
        self._told = self._told or time.monotonic()
        self._process.send_signal(number)


def _die_with(parent: int) -> None:
    """In the child: the kernel ends it when its parent dies, however that happens (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def _say(text: str) -> None:
    print(f"deploy: {text}", file=sys.stderr, flush=True)
