"""Where image servers are, and how a pool treats them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import httpx

from agentfly.errors import ConfigError, unknown_name
from agentfly.vision.remote.adapters import ADAPTERS, OPERATIONS, Operation


def read_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, or of `http://HOST:PORT`.

    Raises:
        ConfigError: of another form.
    """
    host, _, port = text.removeprefix("http://").rstrip("/").rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ConfigError(f"{text!r} is not HOST:PORT, such as localhost:8000")
    return host.strip("[]"), int(port)


@dataclass(frozen=True)
class NodeConfig:
    """Where a server is and how to speak to it.

    Attributes:
        base_url: such as `http://localhost:8000`, without `/v1`.
        adapter: `agentfly`, `vllm-omni`, `sglang` or `openai`; None asks the server.
        model: sent as `model`, where a server needs it.
        api_key_env: environment variable with the key of the server.
        operations: what to ask this server for, if not what it says or what is usual for its kind.
    """

    base_url: str
    adapter: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    operations: frozenset[Operation] | None = None

    def __post_init__(self) -> None:
        """Reject what cannot work.

        Raises:
            ConfigError: no http(s) address of a server, or one with a password or `/v1` in it; an unknown adapter or
                operation; a key that is not set.
        """
        url = httpx.URL(self.base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"{self.base_url!r} is no address of a server: http://HOST:PORT")
        if url.userinfo:
            # Addresses are shown in statistics, logs and observations.
            raise ConfigError(
                f"the address of {url.host} has a password in it: name a variable with api_key_env instead"
            )
        if url.path.rstrip("/").endswith("/v1"):
            raise ConfigError(f"{self.base_url!r}: leave /v1 out, it is added")
        if self.adapter is not None and self.adapter not in ADAPTERS:
            raise ConfigError(unknown_name("adapter", self.adapter, ADAPTERS))
        for operation in self.operations or ():
            if operation not in OPERATIONS:
                raise ConfigError(unknown_name("operation", operation, OPERATIONS))
        if self.adapter == "sglang" and "inpaint" in (self.operations or ()):
            raise ConfigError("sglang ignores masks: it cannot be asked to inpaint")
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            raise ConfigError(f"the environment variable {self.api_key_env} is not set: it has the key of the server")

    @property
    def headers(self) -> dict[str, str]:
        """The key, where there is one."""
        return {} if self.api_key_env is None else {"Authorization": f"Bearer {os.environ[self.api_key_env]}"}


@dataclass(frozen=True)
class PoolSettings:
    """How a pool treats its nodes. The defaults suit servers of one GPU or a few.

    Attributes:
        initial_limit, max_limit: requests that a node gets at once, at first and at most.
        failure_threshold: failures in a row that open a node's circuit.
        open_seconds, max_open_seconds: how long it stays open, the first time and at most.
        connect_seconds: longest time to connect.
        probe_seconds: longest time for a health check.
        unreached_seconds: how long a server that has never answered may be silent before it counts as gone. Requests
            end with an error when all servers are gone.
        away_seconds: the same for a server that has answered before: a restart takes no longer.
        health_seconds: time between health checks while there are requests.
        max_failures: failures of one request, on any nodes, after which it is given up. Refused connections do not
            count: a server that is away did not fail on this request.
        hedge_factor: a request that takes this many times the 95 % quantile is tried on an idle node, too; 0 is never.
        hedge_share: hedges among requests at most.
        hedge_after: answers of an operation before hedging begins.
        lost_after: health checks in a row that nobody answers, after which requests on a node go to another, if there
            is one.

    Raises:
        ConfigError: with such numbers no request would ever be sent.
    """

    initial_limit: int = 4
    max_limit: int = 64
    failure_threshold: int = 3
    open_seconds: float = 0.5
    max_open_seconds: float = 30.0
    connect_seconds: float = 5.0
    probe_seconds: float = 5.0
    unreached_seconds: float = 5.0
    away_seconds: float = 60.0
    health_seconds: float = 5.0
    max_failures: int = 4
    hedge_factor: float = 2.0
    hedge_share: float = 0.05
    hedge_after: int = 20
    lost_after: int = 3

    def __post_init__(self) -> None:
        """Reject settings under which requests would wait for ever."""
        counts = ("initial_limit", "max_limit", "failure_threshold", "max_failures", "lost_after")
        seconds = ("open_seconds", "max_open_seconds", "connect_seconds", "probe_seconds", "health_seconds")
        silence = ("unreached_seconds", "away_seconds")
        wrong = [name for name in counts if getattr(self, name) < 1]
        wrong += [name for name in (*seconds, *silence) if getattr(self, name) <= 0]
        if wrong:
            raise ConfigError(f"PoolSettings: {', '.join(wrong)}: counts are 1 at least, and seconds above 0")
