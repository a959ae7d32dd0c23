"""One image server as the pool sees it: how much it is given, and whether it is trusted.

Two mechanisms, both of the node alone:

- **Concurrency** is adaptive, as in TCP (additive increase, multiplicative decrease; Chiu and Jain, 1989): a node that
  answers at its limit gets `1 / limit` more, unless its answers take twice as long as its quickest, for then more would
  only wait there instead of here. A node that is busy or fails gets half, once per second.
- **Circuit breaker**: after `failure_threshold` failures in a row, or one failed probe, a node is left alone for
  `open_seconds`, twice as long each time. Then it is probed, and gets one request on trial before it gets them all.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import httpx

from agentfly.errors import ConfigError, unknown_name
from agentfly.vision.remote.adapters import ADAPTERS, OPERATIONS, Adapter, Operation
from agentfly.vision.remote.statistics import NodeCounters, NodeStatistics, quantile

Clock = Callable[[], float]
_QUEUEING = 2.0


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
            ConfigError: no http(s) address, an unknown adapter or operation, or a key that is not set.
        """
        url = httpx.URL(self.base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"{self.base_url!r} is no address of a server: http://HOST:PORT")
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
        health_seconds: time between health checks while there are requests.
        max_failures: failures of one request, on any nodes, after which it is given up. Refused connections do not
            count: a server that is away did not fail on this request.
        hedge_factor: a request that takes this many times the 95 % quantile is tried on an idle node, too; 0 is never.
        hedge_share: hedges among requests at most.
        hedge_after: answers of an operation before hedging begins.
    """

    initial_limit: int = 4
    max_limit: int = 64
    failure_threshold: int = 3
    open_seconds: float = 0.5
    max_open_seconds: float = 30.0
    connect_seconds: float = 5.0
    probe_seconds: float = 5.0
    health_seconds: float = 5.0
    max_failures: int = 4
    hedge_factor: float = 2.0
    hedge_share: float = 0.05
    hedge_after: int = 20


class Circuit(str, Enum):
    """State of a breaker."""

    closed = "closed"
    open = "open"
    half_open = "half open"


class Node:
    """State of one server in a pool. Belongs to the pool's event loop.

    Attributes:
        adapter, operations, model: what is known of the server; None and empty before it told.
        asked: whether it was probed at all, with whatever result.
        starting: it answers, but is not ready yet.
        unusable: why it will never be of use as it is configured; empty otherwise.
        not_before: clock time before which it is given nothing.
    """

    def __init__(self, config: NodeConfig, settings: PoolSettings, clock: Clock = time.monotonic) -> None:
        self.config, self._settings, self._clock = config, settings, clock
        self.adapter: Adapter | None = ADAPTERS[config.adapter] if config.adapter else None
        self.operations: frozenset[Operation] | None = None
        self.model = ""
        self.asked = False
        self.starting = False
        self.unusable = ""
        self._probed = float("-inf")
        self.in_flight = 0
        self.limit = float(settings.initial_limit)
        self.counters = NodeCounters()
        self.circuit = Circuit.closed
        self.not_before = 0.0
        self._open_seconds = settings.open_seconds
        self._failures = 0
        self._decreased = float("-inf")
        self._seconds: dict[Operation, deque[float]] = {}

    @property
    def url(self) -> str:
        """Address of the server."""
        return self.config.base_url.rstrip("/")

    def offers(self, operation: Operation) -> bool:
        """Whether the node is known to do this."""
        return self.operations is not None and operation in self.operations

    def free(self) -> bool:
        """Whether it may be given a request now."""
        if self.circuit is Circuit.open or self._clock() < self.not_before:
            return False
        return self.in_flight < (1 if self.circuit is Circuit.half_open else int(self.limit))

    @property
    def age(self) -> float:
        """Seconds since it was last probed."""
        return self._clock() - self._probed

    @property
    def load(self) -> float:
        """Share of its limit that is taken; the least loaded node is the next."""
        return (self.in_flight + 1) / self.limit

    def succeeded(self, operation: Operation | None = None, seconds: float = 0.0) -> None:
        """It answered; with a result, if an operation and its time are given."""
        self._failures, self._open_seconds = 0, self._settings.open_seconds
        self.circuit = Circuit.closed
        if operation is None:
            return
        self.counters.seconds.append(seconds)
        recent = self._seconds.setdefault(operation, deque(maxlen=64))
        recent.append(seconds)
        if self.in_flight >= int(self.limit) and seconds <= _QUEUEING * min(recent):
            self.limit = min(self._settings.max_limit, self.limit + 1.0 / self.limit)

    def was_busy(self, retry_after: float) -> None:
        """It had no room: give it less, and nothing for a while."""
        self._decrease()
        self.not_before = max(self.not_before, self._clock() + retry_after)
        if self.circuit is Circuit.half_open:
            self.circuit = Circuit.closed

    def failed(self, reason: str, *, away: bool = False) -> None:
        """It gave no usable answer; `away` means that there is nobody to answer, which needs no second look."""
        self.counters.last_error = reason
        self._failures += 1
        self._decrease()
        if away or self.circuit is Circuit.half_open or self._failures >= self._settings.failure_threshold:
            self.open()

    def open(self) -> None:
        """Leave it alone for a while."""
        if self.circuit is Circuit.open and self._clock() < self.not_before:
            return
        self.circuit = Circuit.open
        self.not_before = self._clock() + self._open_seconds
        self._open_seconds = min(2 * self._open_seconds, self._settings.max_open_seconds)

    def to_probe(self) -> bool:
        """Whether a probe is due: never asked, or left alone for long enough."""
        return self._clock() >= self.not_before and (self.operations is None or self.circuit is Circuit.open)

    def was_probed(self) -> None:
        """What is known of it is fresh, whatever it is."""
        self.asked, self._probed = True, self._clock()

    def is_well(self) -> None:
        """It is well: on trial, if it was left alone."""
        self.starting, self.unusable = False, ""
        if self.circuit is Circuit.open:
            self.circuit = Circuit.half_open

    def is_starting(self) -> None:
        """It answers but is not ready: ask again soon."""
        self.starting, self.circuit = True, Circuit.open
        self.counters.last_error = "not ready yet"
        self.not_before = self._clock() + self._settings.open_seconds

    def forget(self) -> None:
        """Another event loop begins: nothing is in flight, and what is known of the server is known still."""
        self.in_flight = 0

    def _decrease(self) -> None:
        # The requests of one bad moment all come back with the same news.
        if self._clock() - self._decreased >= 1.0:
            self._decreased = self._clock()
            self.limit = max(1.0, self.limit / 2)

    def statistics(self) -> NodeStatistics:
        """What it did, and how it is."""
        counters, seconds = self.counters, list(self.counters.seconds)
        if self.circuit is not Circuit.closed:
            state = self.circuit.value
        elif self.operations is None:
            state = "unknown"
        else:
            state = "ready" if self._clock() >= self.not_before else "not ready"
        return NodeStatistics(
            url=self.url,
            adapter=self.adapter.name if self.adapter else "",
            model=self.model,
            operations=tuple(sorted(self.operations or ())),
            state=state,
            in_flight=self.in_flight,
            limit=round(self.limit, 2),
            attempts=counters.attempts,
            answered=counters.answered,
            refused=counters.refused,
            failed=counters.failed,
            busy=counters.busy,
            cancelled=counters.cancelled,
            hedges_won=counters.hedges_won,
            mean=sum(seconds) / len(seconds) if seconds else None,
            p50=quantile(seconds, 0.5),
            p99=quantile(seconds, 0.99),
            last_error=counters.last_error,
        )
