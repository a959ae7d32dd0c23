"""One image server as the pool sees it: how much it is given, and whether it is trusted.

Two mechanisms, both of the node alone:

- **Concurrency** is adaptive, as in TCP (additive increase, multiplicative decrease; Chiu and Jain, 1989): a node that
  answers at its limit gets `1 / limit` more, unless its answers take twice as long as its quickest, for then more would
  only wait there instead of here. A node that is busy or fails gets half, once per second.
- **Circuit breaker**: after `failure_threshold` failures in a row, or one failed probe, a node is left alone for
  `open_seconds`, twice as long each time. Then it is probed, and gets one request on trial before it gets them all; one
  more for every `max_open_seconds` that go by without an answer, so that a trial that hangs does not hold the node.

Requests that were sent before a node went away say nothing of the one that came back: they take none of its places.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agentfly.errors import ConfigError
from agentfly.vision.remote.adapters import ADAPTERS, Adapter, Operation
from agentfly.vision.remote.settings import NodeConfig, PoolSettings
from agentfly.vision.remote.statistics import NodeCounters, NodeStatistics, quantile

Clock = Callable[[], float]
_QUEUEING = 2.0


class Circuit(StrEnum):
    """State of a breaker."""

    closed = "closed"
    open = "open"
    half_open = "half open"


@dataclass(eq=False)
class Place:
    """A place that a request holds on a node.

    Attributes:
        node: the server.
        operation: what it is held for.
        era: which of the node's lives it belongs to.
        patience: ends the request when the node is lost; None before it is sent.
    """

    node: Node
    operation: Operation
    era: int
    patience: asyncio.Timeout | None = None

    @property
    def usable(self) -> bool:
        """Whether a request may be sent there now."""
        return self.is_current and self.node.open_for_business

    @property
    def is_current(self) -> bool:
        """Whether the node has not come back from an absence since the place was taken."""
        return self.era == self.node.era


class Node:
    """State of one server in a pool. Belongs to the pool's event loop.

    Attributes:
        adapter, operations, model, version: what is known of the server; None and empty before it told.
        asked: whether it was probed at all, with whatever result.
        starting: it answers, but is not ready yet.
        unusable: why it will never be of use as it is configured; empty otherwise.
        not_before: clock time before which it is given nothing.
        era: how often it came back from an absence.
        silent: health checks in a row that nobody answered.
    """

    def __init__(self, config: NodeConfig, settings: PoolSettings, clock: Clock = time.monotonic) -> None:
        self.config, self._settings, self._clock = config, settings, clock
        self.adapter: Adapter | None = ADAPTERS[config.adapter] if config.adapter else None
        self.operations: frozenset[Operation] | None = None
        self.model = self.version = ""
        self.asked = False
        self.starting = False
        self.unusable = ""
        self._probed = float("-inf")
        self._places: set[Place] = set()
        self.era = self.silent = 0
        self._away_since: float | None = None
        self._reached = False
        self.limit = float(min(settings.initial_limit, settings.max_limit))
        self.counters = NodeCounters()
        self.circuit = Circuit.closed
        self.not_before = 0.0
        self._open_seconds = settings.open_seconds
        self._trial = 0.0
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

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have not ended."""
        return len(self._places)

    @property
    def held(self) -> int:
        """Places taken since it last came back."""
        return sum(place.is_current for place in self._places)

    @property
    def open_for_business(self) -> bool:
        """Whether it is there, and has not asked for a pause."""
        return self.circuit is not Circuit.open and self._clock() >= self.not_before

    def free(self) -> bool:
        """Whether it may be given a request now."""
        return self.open_for_business and self.held < self._room()

    def take(self, operation: Operation) -> Place:
        """A place on it, to be given back by `give_back`."""
        place = Place(self, operation, self.era)
        self._places.add(place)
        return place

    def give_back(self, place: Place) -> None:
        """End the hold on a place."""
        self._places.discard(place)

    def lose(self, operations: Collection[Operation]) -> None:
        """End the requests for these operations that are there: nobody will answer them."""
        for place in self._places:
            if place.operation in operations and place.patience is not None and not place.patience.expired():
                place.patience.reschedule(0.0)

    def _room(self) -> int:
        if self.circuit is not Circuit.half_open:
            return int(self.limit)
        return 1 + int((self._clock() - self._trial) / self._settings.max_open_seconds)

    @property
    def is_gone(self) -> bool:
        """Whether nobody has answered there for longer than a restart takes, the newest health check included."""
        if self._away_since is None or self.to_probe():
            return False
        patience = self._settings.away_seconds if self._reached else self._settings.unreached_seconds
        return self._clock() - self._away_since >= patience

    @property
    def age(self) -> float:
        """Seconds since it was last probed."""
        return self._clock() - self._probed

    @property
    def load(self) -> float:
        """Share of its limit that is taken; the least loaded node is the next."""
        return (self.held + 1) / self.limit

    def succeeded(self, operation: Operation | None = None, seconds: float = 0.0) -> None:
        """It answered; with a result, if an operation and its time are given."""
        self._is_here()
        self._failures, self._open_seconds = 0, self._settings.open_seconds
        self.circuit = Circuit.closed
        if operation is None:
            return
        self.counters.seconds.append(seconds)
        recent = self._seconds.setdefault(operation, deque(maxlen=64))
        recent.append(seconds)
        if self.held >= int(self.limit) and seconds <= _QUEUEING * min(recent):
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
        if away and self._away_since is None:
            self._away_since = self._clock()
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
        self.starting, self.unusable, self.silent = False, "", 0
        self._is_here()
        if self.circuit is Circuit.open:
            self.circuit, self._trial = Circuit.half_open, self._clock()
            self.era += 1

    def is_silent(self, reason: str) -> None:
        """Nobody answered a health check."""
        self.starting = False
        self.silent += 1
        self.failed(reason, away=True)

    def is_starting(self) -> None:
        """It answers but is not ready: ask again soon."""
        self.starting, self.silent, self.circuit = True, 0, Circuit.open
        self._is_here()
        self.counters.last_error = "not ready yet"
        self.not_before = self._clock() + self._settings.open_seconds

    def forget(self) -> None:
        """Another event loop begins: nothing is in flight, and what is known of the server is known still."""
        self._places.clear()

    def _is_here(self) -> None:
        self._away_since, self._reached = None, True

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


def check_usable(nodes: Sequence[Node]) -> None:
    """Tell of nodes that are configured wrongly, where there are no others.

    Raises:
        ConfigError: no node will ever be of use.
    """
    if all(node.unusable for node in nodes):
        raise ConfigError("; ".join(node.unusable for node in nodes))
