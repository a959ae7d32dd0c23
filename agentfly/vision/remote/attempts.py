"""One try of a request: a node, and a second one beside it when the first takes unusually long.

The first answer counts and the other attempt is cancelled. Every attempt ends in exactly one of the node's counters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from agentfly.errors import ConfigError
from agentfly.vision.remote.adapters import Call, Operation
from agentfly.vision.remote.node import Circuit, Node, Slot, check_usable
from agentfly.vision.remote.node_queue import NodeQueue
from agentfly.vision.remote.settings import PoolSettings
from agentfly.vision.remote.statistics import PoolCounters, quantile
from agentfly.vision.remote.transport import AttemptFault, Busy, Failed, Refused, Transport

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LEAST_DELAY = 0.05


class Hedging:
    """Decides when a second node is asked beside the first, from the time that answers took.

    Args:
        nodes: of the pool.
        settings: how eagerly it hedges.
        counters: of the pool; hedges are counted there.
    """

    def __init__(self, nodes: Sequence[Node], settings: PoolSettings, counters: PoolCounters) -> None:
        self._nodes, self._settings, self._counters = nodes, settings, counters
        self._seconds: dict[Operation, deque[float]] = {}

    def record(self, operation: Operation, seconds: float) -> None:
        """Record the time that an answer took."""
        self._seconds.setdefault(operation, deque(maxlen=256)).append(seconds)

    def delay(self, operation: Operation) -> float | None:
        """Return the seconds after which an attempt takes unusually long; None while attempts are not hedged."""
        settings, seconds = self._settings, self._seconds.get(operation, ())
        if len(self._nodes) < 2 or not settings.hedge_factor or len(seconds) < settings.hedge_after:
            return None
        slow = quantile(list(seconds), 0.95)
        return None if slow is None else max(_LEAST_DELAY, settings.hedge_factor * slow)

    def allows(self, operation: Operation, taken: Node) -> bool:
        """Return True, and count a hedge, if another node is idle and the share of hedges is not used up.

        Args:
            operation: of the request.
            taken: the node of the first attempt.
        """
        counters, nodes = self._counters, self._nodes
        if counters.hedges >= 1 + self._settings.hedge_share * counters.requests:
            return False
        allowed = any(n is not taken and not n.in_flight and n.offers(operation) and n.has_room() for n in nodes)
        counters.hedges += allowed
        return allowed


@dataclass(eq=False)
class _Flight:
    """An attempt, as the request that made it sees it."""

    node: Node | None = None
    sent: float = 0.0


class Attempts:
    """Sends requests to nodes and records the outcomes. Belongs to one event loop."""

    def __init__(self, nodes: Sequence[Node], transport: Transport, queue: NodeQueue, hedging: Hedging) -> None:
        self._nodes, self._transport, self._queue, self._hedging = nodes, transport, queue, hedging

    async def answer(self, call: Call, read: Callable[[bytes], T], deadline: float, avoid: Node | None) -> T:
        """Return the result of the first answer.

        Args:
            call: the request.
            read: makes the result of a reply.
            deadline: in seconds of `time.monotonic`.
            avoid: the node to ask only when no other has room.

        Raises:
            AttemptFault: every attempt failed; another try may succeed.
            Refused: the engine of a server will not do it.
            ConfigError: no node can be used as it is configured.
        """
        delay, flight = self._hedging.delay(call.operation), _Flight()
        first = asyncio.create_task(self._attempt(call, read, deadline, avoid, flight))
        attempts = {first}
        try:
            while delay is not None and len(attempts) == 1 and not first.done():
                await asyncio.wait({first}, timeout=delay)
                taken, overdue = flight.node, time.monotonic() - flight.sent >= delay
                if not first.done() and taken and overdue and self._hedging.allows(call.operation, taken):
                    second = self._attempt(call, read, deadline, taken, _Flight(), hedge=True)
                    attempts.add(asyncio.create_task(second))
            pending = attempts
            while True:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                faults = [fault for task in done if (fault := task.exception()) is not None]
                if len(faults) < len(done):
                    return next(task.result() for task in done if task.exception() is None)
                # A refusal ends the request at once; of other faults the last one counts.
                if not pending or not isinstance(faults[0], AttemptFault):
                    raise faults[0]
        finally:
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    async def _attempt(
        self,
        call: Call,
        read: Callable[[bytes], T],
        deadline: float,
        avoid: Node | None,
        flight: _Flight,
        hedge: bool = False,
    ) -> T:
        slot = await self._queue.take(call.operation, avoid)
        try:
            flight.node, flight.sent = slot.node, time.monotonic()
            result = await self._send(slot, call, read, deadline)
            slot.node.counters.hedges_won += hedge
            return result
        finally:
            self._queue.give_back(slot)

    async def _send(self, slot: Slot, call: Call, read: Callable[[bytes], T], deadline: float) -> T:
        """Send a call to the node of a slot, and record the outcome with the node."""
        node, counters, started = slot.node, slot.node.counters, time.monotonic()
        counters.attempts += 1
        try:
            try:
                async with asyncio.timeout(None) as slot.timeout:
                    result = await self._transport.send(node, call, read, deadline)
            except TimeoutError as fault:
                raise Failed(node, "it stopped answering", away=True) from fault
            finally:
                slot.timeout = None
        except asyncio.CancelledError:
            counters.cancelled += 1
            raise
        except Busy as fault:
            counters.busy += 1
            node.record_busy(fault.retry_after)
            raise
        except Refused:
            counters.refused += 1
            node.record_success()
            raise
        except Exception as fault:
            counters.failed += 1
            _record_failure(slot, fault)
            if isinstance(fault, ConfigError):
                check_usable(self._nodes)
                raise Failed(node, str(fault), away=True) from fault
            raise
        seconds = time.monotonic() - started
        counters.answered += 1
        node.record_success(call.operation, seconds)
        self._hedging.record(call.operation, seconds)
        return result


def _record_failure(slot: Slot, fault: Exception) -> None:
    """Record a failure with the node of a slot, unless the node has come back from an absence since."""
    node, reason = slot.node, fault.reason if isinstance(fault, Failed) else str(fault)
    if isinstance(fault, ConfigError):
        node.unusable = reason
    if not slot.is_current:
        return
    node.record_failure(reason, away=isinstance(fault, ConfigError) or (isinstance(fault, Failed) and fault.away))
    if node.circuit is Circuit.open:
        logger.warning("%s is left alone for a while: %s", node.url, reason)
