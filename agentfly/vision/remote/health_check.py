"""Health checks: nodes are watched while there are requests, and only then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TypeVar

from agentfly.vision.remote.adapters import OPERATIONS, Operation
from agentfly.vision.remote.node import Circuit, Node, check_usable
from agentfly.vision.remote.node_queue import NodeQueue
from agentfly.vision.remote.settings import PoolSettings
from agentfly.vision.remote.transport import Transport

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL = 0.05
_GONE_POLL = 0.25


class HealthChecks:
    """Probes a node when it is new, when it may be back, and at regular intervals. Belongs to one event loop.

    A context manager that may be entered many times: nodes are watched while any request is inside.
    """

    def __init__(self, nodes: Sequence[Node], settings: PoolSettings, transport: Transport, queue: NodeQueue) -> None:
        self._nodes, self._settings, self._transport, self._queue = nodes, settings, transport, queue
        self._inside = 0
        self._watchers: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()

    def __enter__(self) -> None:
        self._inside += 1
        if not self._watchers:
            self._watchers = [asyncio.create_task(self._watch(node)) for node in self._nodes]

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if not self._inside:
            self.stop()

    def stop(self) -> None:
        """Stop watching."""
        for watcher in self._watchers:
            watcher.cancel()
        self._watchers = []
        self._queue.close()

    async def wait_for(self, work: asyncio.Future[T], timeout: float) -> None:
        """Wait until work is done, for at most `timeout` seconds, and no longer once every node is gone."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not work.done() and not all(node.is_gone for node in self._nodes):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            # A node becomes gone by the passing of time alone, so news is not enough.
            await asyncio.wait({work}, timeout=min(left, _GONE_POLL))

    async def offered(self, operation: Operation) -> bool:
        """Return True if a node does this, once those that answer have reported their operations.

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
        """Return True if another server may run at a node's address since it last reported its operations."""
        return node.circuit is not Circuit.open and node.age >= self._settings.health_seconds

    async def _watch(self, node: Node) -> None:
        while True:
            if node.probe_due() or self._stale(node):
                was = node.circuit
                await self._transport.probe(node)
                if node.circuit is not was:
                    logger.info("%s is %s %s", node.url, node.statistics().state, node.counters.last_error)
                if node.missed_checks >= self._settings.lost_after:
                    # Its requests go on to other nodes, where there are some that can do them.
                    others = [other for other in self._nodes if other is not node and other.available]
                    node.abandon([op for op in OPERATIONS if any(other.offers(op) for other in others)])
                self._news.set()
                self._news.clear()
                self._queue.dispatch()
            await asyncio.sleep(_POLL)
