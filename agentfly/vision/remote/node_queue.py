"""The queue for places on nodes: requests wait here, first come first served, until a node has a place for them.

Whatever may make room calls `dispatch`: a place given back, the end of a pause that a node asked for (a timer), and
news of a node (its watcher). Nothing else does, so nothing else may change whether a node is free.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from agentfly.aio import RateLimiter
from agentfly.vision.remote.adapters import Operation
from agentfly.vision.remote.node import Circuit, Node, Place


@dataclass(eq=False)
class _Waiter:
    future: asyncio.Future[Place]
    avoid: Node | None


class Places:
    """The places on all nodes of a pool. Belongs to the running event loop.

    Args:
        nodes: of the pool.
        limiter: admits every attempt; None admits all.
    """

    def __init__(self, nodes: Sequence[Node], limiter: RateLimiter | None) -> None:
        self._nodes, self._limiter = nodes, limiter
        self._loop = asyncio.get_running_loop()
        self._queues: dict[Operation, deque[_Waiter]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Attempts that wait for a place."""
        return sum(not waiter.future.done() for queue in self._queues.values() for waiter in queue)

    async def take(self, operation: Operation, avoid: Node | None) -> Place:
        """A place on the least loaded node that does this, admitted by the rate limit.

        Args:
            operation: what is asked.
            avoid: the node to take only when no other is free.
        """
        while True:
            place = await self._turn(operation, avoid)
            try:
                if self._limiter is not None:
                    await self._limiter.acquire()
            except BaseException:
                self.give_back(place)
                raise
            # The node may have gone away, or asked for a pause, while the rate limit kept us waiting.
            if place.usable:
                return place
            self.give_back(place)

    def give_back(self, place: Place) -> None:
        """End the hold on a place, and give it to who waits."""
        place.node.give_back(place)
        self.dispatch()

    def dispatch(self) -> None:
        """Give free places to those who wait, in their order."""
        for operation, queue in self._queues.items():
            while queue:
                waiter = queue[0]
                if not waiter.future.done():
                    node = self._choose(operation, waiter.avoid)
                    if node is None:
                        break
                    waiter.future.set_result(node.take(operation))
                queue.popleft()
        self._arm()

    def close(self) -> None:
        """Let the timer go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _turn(self, operation: Operation, avoid: Node | None) -> Place:
        waiter = _Waiter(self._loop.create_future(), avoid)
        self._queues.setdefault(operation, deque()).append(waiter)
        self.dispatch()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            # The place may have come in the very moment in which nobody wanted it any more.
            if waiter.future.done() and not waiter.future.cancelled():
                self.give_back(waiter.future.result())
            raise

    def _choose(self, operation: Operation, avoid: Node | None) -> Node | None:
        free = [node for node in self._nodes if node.offers(operation) and node.free()]
        return min(free, key=lambda node: (node is avoid, node.load, node.counters.attempts), default=None)

    def _arm(self) -> None:
        """Look again when a pause that a node asked for is over. Open circuits are for the watchers."""
        self.close()
        if any(self._queues.values()):
            now = time.monotonic()
            ends = [n.not_before for n in self._nodes if n.circuit is not Circuit.open and n.not_before > now]
            if ends:
                self._timer = self._loop.call_later(min(ends) - now + 0.001, self.dispatch)
