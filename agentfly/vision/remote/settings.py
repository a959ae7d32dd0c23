"""The addresses of image servers, and the settings of a pool of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import httpx
from pydantic import BeforeValidator

from agentfly.errors import ConfigError, unknown_name
from agentfly.redaction import public_url, read_key
from agentfly.settings import checked_address
from agentfly.vision.remote.adapters import ADAPTERS, OPERATIONS, Operation

_TEXT = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+)(?::(?P<port>\d{1,5}))?(?:/v1)?/?"
)


@dataclass(frozen=True)
class NodeConfig:
    """The address of a server, and how to speak to it.

    Attributes:
        base_url: such as `http://localhost:8000`, without `/v1`.
        adapter: `agentfly`, `vllm-omni`, `sglang` or `openai`; None asks the server.
        model: sent as `model`, where a server needs it.
        api_key_env: environment variable with the key of the server.
        operations: the operations to ask this server for; None takes those that it reports, or that its kind supports.
    """

    base_url: str
    adapter: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    operations: frozenset[Operation] | None = None

    def __post_init__(self) -> None:
        """Reject a server that cannot work.

        Raises:
            ConfigError: no http(s) address of a server, or one with a password or `/v1` in it; an unknown adapter or
                operation; a key that is not set.
        """
        try:
            url = httpx.URL(checked_address(self.base_url))
        except ValueError:
            raise ConfigError(f"{public_url(self.base_url)!r} is no address of a server: http://HOST:PORT") from None
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
        if self.api_key_env is not None and not read_key(self.api_key_env):
            raise ConfigError(f"the environment variable {self.api_key_env} is not set: it has the key of the server")

    @property
    def headers(self) -> dict[str, str]:
        """The header with the key, where there is one."""
        return {} if self.api_key_env is None else {"Authorization": f"Bearer {read_key(self.api_key_env)}"}

    def to_spec(self) -> str | dict[str, object]:
        """Return this server in the form of YAML and JSON, which `read_nodes` reads back equal."""
        given = {entry.name: value for entry in fields(self) if (value := getattr(self, entry.name)) is not None}
        if self.operations is not None:
            given["operations"] = sorted(self.operations)
        return self.base_url if given.keys() == {"base_url"} else given


NodeSpec = str | tuple[str, int] | Mapping[str, object] | NodeConfig
"""One server as people write it; see `read_nodes`."""
NodeSpecs = str | Mapping[str, object] | NodeConfig | Iterable[NodeSpec]
"""One server or several."""


NodeSettings = Annotated[
    tuple[str | Mapping[str, object], ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, (str, Mapping)) else given),
]
"""Servers as a field of settings that come from YAML: texts, or mappings of the fields of `NodeConfig`."""


def read_nodes(
    given: NodeSpecs | None, option: str = "client_nodes", api_key_env: str | None = None
) -> list[NodeConfig]:
    """Return servers that were given in any of the forms that people write.

    Args:
        given: one server or several, each as `HOST:PORT`, as an address (`https://HOST`), as several with commas
            between, as `(host, port)`, as a mapping of the fields of `NodeConfig`, or as a `NodeConfig`; None for none.
        option: the option or key that they were given with, for messages.
        api_key_env: environment variable with the key of every server that names none itself.

    Raises:
        ConfigError: a server is of no such form, or a variable that should have a key is not set.
    """
    specs = (given,) if isinstance(given, (str, Mapping, NodeConfig)) else given or ()
    try:
        return [node for spec in specs for node in _read_spec(spec, api_key_env)]
    except ConfigError as fault:
        raise ConfigError(f"{option}: {fault}") from None


def _read_spec(spec: NodeSpec, api_key_env: str | None) -> list[NodeConfig]:
    if isinstance(spec, NodeConfig):
        return [spec]
    if isinstance(spec, str):
        texts = [text.strip() for text in spec.split(",") if text.strip()]
        return [NodeConfig(_url(text), api_key_env=api_key_env) for text in texts or [spec]]
    if isinstance(spec, Mapping):
        known = [entry.name for entry in fields(NodeConfig)]
        for name in spec:
            if name not in known:
                raise ConfigError(unknown_name("field of a server", str(name), known))
        given: dict[str, Any] = {"api_key_env": api_key_env, **spec}
        if not isinstance(given.get("base_url"), str):
            raise ConfigError("a server has no base_url: write {base_url: http://HOST:PORT, ...}")
        if given.get("operations") is not None:
            given["operations"] = frozenset(given["operations"])
        return [NodeConfig(**{**given, "base_url": _url(given["base_url"])})]
    try:
        host, port = spec
        return [NodeConfig(_url(f"{f'[{host}]' if ':' in host else host}:{int(port)}"), api_key_env=api_key_env)]
    except (TypeError, ValueError) as fault:
        raise ConfigError(f"{spec!r} is no server: write 'HOST:PORT', such as 'localhost:8000'") from fault


def _url(text: str) -> str:
    """Return the address of `HOST:PORT`, or of an address with or without `/v1`."""
    found = _TEXT.fullmatch(text)
    if "@" in text:
        # Addresses are shown in statistics, logs and observations.
        raise ConfigError(
            f"the address of {text.rpartition('@')[2]} has a password in it: put the key into an environment variable, "
            "and name that with --nodes-key-env or api_key_env"
        )
    if found is None:
        raise ConfigError(f"{public_url(text)!r} is not HOST:PORT, such as localhost:8000, or http(s)://HOST")
    if not found["scheme"] and not found["port"]:
        raise ConfigError(f"{text!r} has no port: write HOST:PORT, such as {found['host']}:8000")
    if found["port"] and not 0 < int(found["port"]) < 65536:
        raise ConfigError(f"{text!r}: a port is a number from 1 to 65535")
    return f"{found['scheme'] or 'http'}://{found['host']}{':' + found['port'] if found['port'] else ''}"


@dataclass(frozen=True)
class PoolSettings:
    """Settings of a pool. The defaults suit servers of one GPU or a few.

    Attributes:
        initial_limit, max_limit: requests that a node gets at once, at first and at most.
        max_slots: the same at most for a node that tells how many it takes at once.
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
        hedge_factor: a request that takes this many times the 95 % quantile is tried on an idle node, too; 0 for never.
        hedge_share: hedges among requests at most.
        hedge_after: answers of an operation before hedging begins.
        lost_after: health checks in a row that nobody answers, after which requests on a node go to another, if there
            is one.

    Raises:
        ConfigError: a count is below 1 or a time is not above 0, so that requests would wait for ever.
    """

    initial_limit: int = 4
    max_limit: int = 64
    max_slots: int = 4096
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
        counts = ("initial_limit", "max_limit", "max_slots", "failure_threshold", "max_failures", "lost_after")
        seconds = ("open_seconds", "max_open_seconds", "connect_seconds", "probe_seconds", "health_seconds")
        silence = ("unreached_seconds", "away_seconds")
        wrong = [name for name in counts if getattr(self, name) < 1]
        wrong += [name for name in (*seconds, *silence) if getattr(self, name) <= 0]
        if wrong:
            raise ConfigError(f"PoolSettings: {', '.join(wrong)}: counts are 1 at least, and seconds above 0")
