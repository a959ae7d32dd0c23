"""Health checks: nodes are watched while there are requests, and only then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from agentfly.vision.remote.adapters import OPERATIONS, Operation
from agentfly.vision.remote.node import Circuit, Node, check_usable
from agentfly.vision.remote.node_queue import Places
from agentfly.vision.remote.settings import PoolSettings
from agentfly.vision.remote.transport import Transport

logger = logging.getLogger(__name__)

_POLL = 0.05
_GONE_POLL = 0.25


class Watch:
    """Probes a node when it is new, when it may be back, and now and then. Belongs to one event loop.

    A context manager that may be entered many times: nodes are watched while anybody is inside.
    """

    def __init__(self, nodes: Sequence[Node], settings: PoolSettings, transport: Transport, places: Places) -> None:
        self._nodes, self._settings, self._transport, self._places = nodes, settings, transport, places
        self._inside = 0
        self._watchers: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()

    def __enter__(self) -> None:
        self._inside += 1
        if not self._watchers:
            self._watchers = [asyncio.create_task(self._watch(node)) for node in self._nodes]

    def __exit__(self, *_: Any) -> None:
        self._inside -= 1
        if not self._inside:
            self.stop()

    def stop(self) -> None:
        """Watch no more."""
        for watcher in self._watchers:
            watcher.cancel()
        self._watchers = []
        self._places.close()

    async def wait_for(self, work: asyncio.Future[Any], timeout: float) -> None:
        """Wait until work is done, for at most `timeout` seconds, and no longer once no node can be reached."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not work.done() and not all(node.is_gone for node in self._nodes):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            # Becoming gone takes a moment's passing, not only news.
            await asyncio.wait({work}, timeout=min(left, _GONE_POLL))

    async def offered(self, operation: Operation) -> bool:
        """Whether a node does this; waits until those that answer have said what they do.

        Raises:
            ConfigError: no node can be used as it is configured.
        """
        while True:
            if any(node.offers(operation) for node in self._nodes):
                return True
            check_usable(self._nodes)
            known = any(node.operations is not None for node in self._nodes)
            if known and all(node.asked and not node.starting and not self._stale(node) for node in self._nodes):
                return False
            await self._news.wait()

    def _stale(self, node: Node) -> bool:
        """Whether another server may have taken the place of a node since it was last asked what it does."""
        return node.circuit is not Circuit.open and node.age >= self._settings.health_seconds

    async def _watch(self, node: Node) -> None:
        while True:
            if node.to_probe() or self._stale(node):
                was = node.circuit
                await self._transport.probe(node)
                if node.circuit is not was:
                    logger.info("%s is %s %s", node.url, node.statistics().state, node.counters.last_error)
                self._give_up(node)
                self._news.set()
                self._news.clear()
                self._places.dispatch()
            await asyncio.sleep(_POLL)

    def _give_up(self, node: Node) -> None:
        """Let requests on a node that has fallen silent go on to others, where others can do them."""
        if node.silent >= self._settings.lost_after:
            others = [other for other in self._nodes if other is not node and other.open_for_business]
            node.lose([operation for operation in OPERATIONS if any(other.offers(operation) for other in others)])
