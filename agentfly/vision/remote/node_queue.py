"""The queue for slots on nodes: requests wait here, first come first served, until a node has a slot for them.

Three events can make room, and each calls `dispatch`: a slot is given back, a pause that a node asked for ends (a
timer), or a health check has news of a node. Nothing else does, so nothing else may change whether a node has room.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from agentfly.aio import RateLimiter
from agentfly.vision.remote.adapters import Operation
from agentfly.vision.remote.node import Circuit, Node, Slot


@dataclass(eq=False)
class _Waiter:
    future: asyncio.Future[Slot]
    avoid: Node | None


class NodeQueue:
    """The slots on all nodes of a pool. Belongs to the running event loop.

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
        """Attempts that wait for a slot."""
        return sum(not waiter.future.done() for queue in self._queues.values() for waiter in queue)

    async def take(self, operation: Operation, avoid: Node | None) -> Slot:
        """Wait for a slot on the least loaded node that does this, and for the rate limit.

        Args:
            operation: of the request.
            avoid: the node to take only when no other has room.
        """
        while True:
            slot = await self._wait_for_slot(operation, avoid)
            try:
                if self._limiter is not None:
                    await self._limiter.acquire()
            except BaseException:
                self.give_back(slot)
                raise
            # The node may have gone away, or asked for a pause, while the rate limit kept us waiting.
            if slot.usable:
                return slot
            self.give_back(slot)

    def give_back(self, slot: Slot) -> None:
        """Release a slot, and give it to the next request that waits."""
        slot.node.give_back(slot)
        self.dispatch()

    def dispatch(self) -> None:
        """Give free slots to the requests that wait, in their order."""
        for operation, queue in self._queues.items():
            while queue:
                waiter = queue[0]
                if not waiter.future.done():
                    free = [node for node in self._nodes if node.offers(operation) and node.has_room()]
                    if not free:
                        break
                    node = min(free, key=lambda node: (node is waiter.avoid, node.load, node.counters.attempts))
                    waiter.future.set_result(node.take(operation))
                queue.popleft()
        # Dispatch again when the next pause that a node asked for is over. Health checks reopen open circuits.
        self.close()
        if any(self._queues.values()):
            now = time.monotonic()
            ends = [n.not_before for n in self._nodes if n.circuit is not Circuit.open and n.not_before > now]
            if ends:
                self._timer = self._loop.call_later(min(ends) - now + 0.001, self.dispatch)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _wait_for_slot(self, operation: Operation, avoid: Node | None) -> Slot:
        waiter = _Waiter(self._loop.create_future(), avoid)
        self._queues.setdefault(operation, deque()).append(waiter)
        self.dispatch()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            # The slot may have come in the very moment in which the request was cancelled.
            if waiter.future.done() and not waiter.future.cancelled():
                self.give_back(waiter.future.result())
            raise
