"""One try of a request: a node, and a second one beside it when the first takes unusually long.

The first answer counts and the other attempt is cancelled. Every attempt ends in exactly one of the node's counters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from agentfly.errors import ConfigError
from agentfly.vision.remote.adapters import Call
from agentfly.vision.remote.faults import AttemptFault, Busy, Failed, Refused
from agentfly.vision.remote.hedging import Hedging
from agentfly.vision.remote.node import Circuit, Node, Place, check_usable
from agentfly.vision.remote.node_queue import Places
from agentfly.vision.remote.transport import Transport

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(eq=False)
class _Flight:
    """An attempt, as the request that made it sees it."""

    node: Node | None = None
    sent: float = 0.0


class Attempts:
    """Sends requests to nodes, and tells the nodes what came of it. Belongs to one event loop."""

    def __init__(self, nodes: Sequence[Node], transport: Transport, places: Places, hedging: Hedging) -> None:
        self._nodes, self._transport, self._places, self._hedging = nodes, transport, places, hedging

    async def answer(self, call: Call, read: Callable[[bytes], T], deadline: float, avoid: Node | None) -> T:
        """What `read` makes of the first answer.

        Raises:
            AttemptFault: another try may succeed.
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
            return await _first_answer(attempts)
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
        place = await self._places.take(call.operation, avoid)
        try:
            flight.node, flight.sent = place.node, time.monotonic()
            result = await self._counted(place, call, read, deadline)
            place.node.counters.hedges_won += hedge
            return result
        finally:
            self._places.give_back(place)

    async def _counted(self, place: Place, call: Call, read: Callable[[bytes], T], deadline: float) -> T:
        node, counters, started = place.node, place.node.counters, time.monotonic()
        counters.attempts += 1
        try:
            result = await self._sent(place, call, read, deadline)
        except asyncio.CancelledError:
            counters.cancelled += 1
            raise
        except Busy as fault:
            counters.busy += 1
            node.was_busy(fault.retry_after)
            raise
        except Refused:
            counters.refused += 1
            node.succeeded()
            raise
        except Exception as fault:
            counters.failed += 1
            self._note(place, fault)
            if isinstance(fault, ConfigError):
                check_usable(self._nodes)
                raise Failed(node, str(fault), away=True) from fault
            raise
        seconds = time.monotonic() - started
        counters.answered += 1
        node.succeeded(call.operation, seconds)
        self._hedging.learn(call.operation, seconds)
        return result

    async def _sent(self, place: Place, call: Call, read: Callable[[bytes], T], deadline: float) -> T:
        """The answer, unless the node is given up for lost before it comes."""
        try:
            async with asyncio.timeout(None) as place.patience:
                return await self._transport.send(place.node, call, read, deadline)
        except TimeoutError as fault:
            raise Failed(place.node, "it stopped answering", away=True) from fault
        finally:
            place.patience = None

    def _note(self, place: Place, fault: Exception) -> None:
        """Tell a node of a failure, unless the node that failed is no longer the one that is there."""
        node, reason = place.node, fault.reason if isinstance(fault, Failed) else str(fault)
        if isinstance(fault, ConfigError):
            node.unusable = reason
        if not place.is_current:
            return
        node.failed(reason, away=isinstance(fault, ConfigError) or (isinstance(fault, Failed) and fault.away))
        if node.circuit is Circuit.open:
            logger.warning("%s is left alone for a while: %s", node.url, reason)


async def _first_answer(attempts: set[asyncio.Task[T]]) -> T:
    """The first result; the last fault where all fail. A refusal ends it at once."""
    pending = attempts
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        faults = [task.exception() for task in done]
        for task, fault in zip(done, faults, strict=True):
            if fault is None:
                return task.result()
        last = next(fault for fault in faults if fault is not None)
        if not pending or not isinstance(last, AttemptFault):
            raise last
