"""One image server as the pool sees it: the requests that it is given, and whether it is trusted.

Each node has two mechanisms of its own:

- **Concurrency** is adaptive, as in TCP (additive increase, multiplicative decrease; Chiu and Jain, 1989): a node that
  answers at its limit gets `1 / limit` more, unless its answers take twice as long as its quickest. More requests would
  then only wait there instead of here. A node that tells how many it takes at once gets as many, and never more. A node
  that is busy or fails gets half, at most once per second.
- **Circuit breaker**: after `failure_threshold` failures in a row, or one failed probe, a node gets no requests for
  `open_seconds`, twice as long each time. Then it is probed, and gets a single request on trial. For every
  `max_open_seconds` without an answer it gets one more, so that a trial that hangs does not block the node.

Requests that were sent before a node went away say nothing about the one that came back: they take none of its slots.
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
class Slot:
    """A slot that a request holds on a node.

    Attributes:
        node: the server.
        operation: the operation of the request.
        generation: the node's `generation` when the slot was taken.
        timeout: ends the request when the node is given up; None before the request is sent.
    """

    node: Node
    operation: Operation
    generation: int
    timeout: asyncio.Timeout | None = None

    @property
    def usable(self) -> bool:
        """True if a request may be sent now."""
        return self.is_current and self.node.available

    @property
    def is_current(self) -> bool:
        """True unless the node has come back from an absence since the slot was taken."""
        return self.generation == self.node.generation


class Node:
    """State of one server in a pool. Belongs to the pool's event loop.

    Attributes:
        adapter, operations, model, version: as the server reported them; None and empty before the first report.
        asked: True once it was probed, with any result.
        starting: True while it answers but is not ready.
        unusable: the reason why it can never be used as it is configured; empty otherwise.
        not_before: clock time before which it gets no request.
        limit: requests that it may be given at once.
        generation: number of times that it came back from an absence.
        held: slots taken since it last came back.
        missed_checks: health checks in a row without an answer.
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
        self._slots: set[Slot] = set()
        self.generation = self.missed_checks = self.held = 0
        self._away_since: float | None = None
        self._reached = False
        self._most = settings.max_limit
        self.limit = float(min(settings.initial_limit, settings.max_limit))
        self.counters = NodeCounters()
        self.circuit = Circuit.closed
        self.not_before = 0.0
        self._open_seconds = settings.open_seconds
        self._trial = 0.0
        self._failures = 0
        self._decreased = float("-inf")
        self._seconds: dict[Operation, deque[float]] = {}
        self._answer_seconds: deque[float] = deque(maxlen=1024)

    @property
    def url(self) -> str:
        """Address of the server."""
        return self.config.base_url.rstrip("/")

    def offers(self, operation: Operation) -> bool:
        """Return True if the node is known to do this."""
        return self.operations is not None and operation in self.operations

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have not ended."""
        return len(self._slots)

    @property
    def available(self) -> bool:
        """True unless its circuit is open or it has asked for a pause."""
        return self.circuit is not Circuit.open and self._clock() >= self.not_before

    def has_room(self) -> bool:
        """Return True if it may be given a request now."""
        room = int(self.limit)
        if self.circuit is Circuit.half_open:
            room = 1 + int((self._clock() - self._trial) / self._settings.max_open_seconds)
        return self.available and self.held < room

    def take(self, operation: Operation) -> Slot:
        """Take a slot, to be returned by `give_back`."""
        slot = Slot(self, operation, self.generation)
        self._slots.add(slot)
        self.held += 1
        return slot

    def give_back(self, slot: Slot) -> None:
        """Release a slot. One that was released or forgotten before makes no room."""
        if slot in self._slots:
            self._slots.remove(slot)
            self.held -= slot.is_current

    def abandon(self, operations: Collection[Operation]) -> None:
        """End the requests in flight for these operations, which nobody will answer."""
        for slot in self._slots:
            if slot.operation in operations and slot.timeout is not None and not slot.timeout.expired():
                slot.timeout.reschedule(0.0)

    @property
    def is_gone(self) -> bool:
        """True if it has been away for longer than a restart takes, and the latest health check found nobody."""
        if self._away_since is None or self.probe_due():
            return False
        allowed = self._settings.away_seconds if self._reached else self._settings.unreached_seconds
        return self._clock() - self._away_since >= allowed

    @property
    def age(self) -> float:
        """Seconds since it was last probed."""
        return self._clock() - self._probed

    @property
    def load(self) -> float:
        """Share of its limit that is taken; the least loaded node is the next."""
        return (self.held + 1) / self.limit

    def record_success(self, operation: Operation | None = None, seconds: float = 0.0) -> None:
        """Record an answer, and raise the limit where it was reached and the answer was quick.

        Args:
            operation: the operation that gave a result; None for an answer without one, such as a refusal.
            seconds: from sending to the answer.
        """
        self._mark_reached()
        self._failures, self._open_seconds = 0, self._settings.open_seconds
        self.circuit = Circuit.closed
        if operation is None:
            return
        self._answer_seconds.append(seconds)
        recent = self._seconds.setdefault(operation, deque(maxlen=64))
        recent.append(seconds)
        if self.held >= int(self.limit) and seconds <= _QUEUEING * min(recent):
            self.limit = min(self._most, self.limit + 1.0 / self.limit)

    def record_slots(self, slots: int) -> None:
        """Record how many requests it says that it takes at once. More would wait there, where no other node gets them.

        Behind one address there may be many servers, so this may be more than `max_limit`.

        Args:
            slots: above 0.
        """
        most = min(self._settings.max_slots, slots)
        if most != self._most:
            self._most, self.limit = most, float(most)

    def record_busy(self, retry_after: float) -> None:
        """Record that it had no room: halve its limit and pause it for `retry_after` seconds."""
        self._decrease()
        self.not_before = max(self.not_before, self._clock() + retry_after)
        if self.circuit is Circuit.half_open:
            self.circuit = Circuit.closed

    def record_failure(self, reason: str, *, away: bool = False) -> None:
        """Record a request or probe without a usable answer, and open the circuit where that is due.

        Args:
            reason: for the statistics and messages.
            away: nobody could be connected to; the circuit then opens at once.
        """
        self.counters.last_error = reason
        if away and self._away_since is None:
            self._away_since = self._clock()
        self._failures += 1
        self._decrease()
        if away or self.circuit is Circuit.half_open or self._failures >= self._settings.failure_threshold:
            self.open_circuit()

    def open_circuit(self) -> None:
        """Give it no requests for a while; each time without a success in between is twice as long."""
        if self.circuit is Circuit.open and self._clock() < self.not_before:
            return
        self.circuit = Circuit.open
        self.not_before = self._clock() + self._open_seconds
        self._open_seconds = min(2 * self._open_seconds, self._settings.max_open_seconds)

    def probe_due(self) -> bool:
        """Return True if it was never asked, or its open circuit has waited long enough."""
        return self._clock() >= self.not_before and (self.operations is None or self.circuit is Circuit.open)

    def record_probe(self) -> None:
        """Record the time of a probe, whatever its result."""
        self.asked, self._probed = True, self._clock()

    def record_healthy(self) -> None:
        """Record a healthy probe; an open circuit becomes half-open."""
        self.starting, self.unusable, self.missed_checks = False, "", 0
        self._mark_reached()
        if self.circuit is Circuit.open:
            self.circuit, self._trial = Circuit.half_open, self._clock()
            self.generation += 1
            self.held = 0

    def record_silence(self, reason: str) -> None:
        """Record a health check that nobody answered."""
        self.starting = False
        self.missed_checks += 1
        self.record_failure(reason, away=True)

    def record_starting(self) -> None:
        """Record that it answers but is not ready, so that it is probed again soon."""
        self.starting, self.missed_checks, self.circuit = True, 0, Circuit.open
        self._mark_reached()
        self.counters.last_error = "not ready yet"
        self.not_before = self._clock() + self._settings.open_seconds

    def clear_in_flight(self) -> None:
        """Forget the requests of an earlier event loop, and keep all else that is known of the server."""
        self._slots.clear()
        self.held = 0

    def _mark_reached(self) -> None:
        self._away_since, self._reached = None, True

    def _decrease(self) -> None:
        # Requests that fail in the same moment carry the same news, so it counts once.
        if self._clock() - self._decreased >= 1.0:
            self._decreased = self._clock()
            self.limit = max(1.0, self.limit / 2)

    def statistics(self) -> NodeStatistics:
        """Return its counters and its state."""
        seconds = list(self._answer_seconds)
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
            mean=sum(seconds) / len(seconds) if seconds else None,
            p50=quantile(seconds, 0.5),
            p99=quantile(seconds, 0.99),
            **vars(self.counters),
        )


def check_usable(nodes: Sequence[Node]) -> None:
    """Raise the faults of configuration, where every node has one.

    Raises:
        ConfigError: no node will ever be of use.
    """
    if all(node.unusable for node in nodes):
        raise ConfigError("; ".join(node.unusable for node in nodes))
