"""Many image servers as one: every request is answered by one of them, once.

A request goes to the least loaded node that can do it. It moves on when a node fails, is busy or goes away, and a copy
goes to an idle node when the first takes unusually long; the first answer counts and the other is cancelled. Requests
beyond what the nodes take at once wait here, first come first served, so that servers see no more than they can hold.
The rate limit counts every attempt, retries and hedges included. When no node can be reached, or none answers in time,
a request ends with `ToolOutage`.

Nodes are watched while there are requests, and only then. A pool may be used from one event loop after another, not
from two at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentfly.aio import RateLimiter
from agentfly.errors import ConfigError, ToolOutage
from agentfly.vision.remote.adapters import OPERATIONS, Call, Operation
from agentfly.vision.remote.attempts import Attempts, Hedging
from agentfly.vision.remote.node import Circuit, Node, check_usable
from agentfly.vision.remote.node_queue import NodeQueue
from agentfly.vision.remote.settings import NodeConfig, PoolSettings
from agentfly.vision.remote.statistics import PoolCounters, PoolStatistics
from agentfly.vision.remote.transport import AttemptFault, Failed, Refused, Transport

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL = 0.05


class NotOffered(Exception):
    """No node that answers does this operation."""


class Unanswered(ToolOutage):
    """No server answered in time, or none can be reached."""


class HealthChecks:
    """Probes a node when it is new, when it may be back, and at regular intervals. Belongs to one event loop.

    A context manager that may be entered many times: nodes are watched while any request is inside.
    """

    def __init__(self, nodes: Sequence[Node], settings: PoolSettings, transport: Transport, queue: NodeQueue) -> None:
        self._nodes, self._settings, self._transport, self._queue = nodes, settings, transport, queue
        self._inside = 0
        self._watcher: asyncio.Task[None] | None = None
        self._probes: dict[Node, asyncio.Task[None]] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._news = asyncio.Event()

    def __enter__(self) -> None:
        self._inside += 1
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if not self._inside:
            self.stop()

    def stop(self) -> None:
        """Stop watching."""
        for task in (self._watcher, *self._probes.values()):
            if task is not None:
                task.cancel()
        self._watcher = None
        self._probes.clear()
        self._queue.close()

    async def wait_for(self, work: asyncio.Future[T], timeout: float) -> None:
        """Wait until work is done, for at most `timeout` seconds, and no longer once every node is gone."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(gone)
        try:
            both: set[asyncio.Future[Any]] = {work, gone}
            await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.discard(gone)

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

    async def _watch(self) -> None:
        """Probe the nodes that are due, and tell those that wait when all are gone: one task for nodes and requests."""
        while True:
            for node in self._nodes:
                if node not in self._probes and (node.probe_due() or self._stale(node)):
                    self._probes[node] = asyncio.create_task(self._probe(node))
            # A node becomes gone by the passing of time alone, so the news of a probe is not enough.
            if all(node.is_gone for node in self._nodes):
                for waiting in self._waiting:
                    if not waiting.done():
                        waiting.set_result(None)
            await asyncio.sleep(_POLL)

    async def _probe(self, node: Node) -> None:
        was = node.circuit
        try:
            await self._transport.probe(node)
        finally:
            self._probes.pop(node, None)
        if node.circuit is not was:
            logger.info("%s is %s %s", node.url, node.statistics().state, node.counters.last_error)
        if node.missed_checks >= self._settings.lost_after:
            # Its requests go on to other nodes, where there are some that can do them.
            others = [other for other in self._nodes if other is not node and other.available]
            node.abandon([op for op in OPERATIONS if any(other.offers(op) for other in others)])
        self._news.set()
        self._news.clear()
        self._queue.dispatch()


@dataclass(eq=False)
class _Bound:
    """The parts of a pool that belong to one event loop."""

    loop: asyncio.AbstractEventLoop
    transport: Transport
    queue: NodeQueue
    checks: HealthChecks
    attempts: Attempts
    pending: set[asyncio.Task[object]] = field(default_factory=set)


class NodePool:
    """Image servers that share the work.

    Args:
        nodes: the servers.
        max_requests_per_minute: attempts in any minute at most, over all nodes; None is no limit.
        timeout: seconds from a request to its answer, waiting included.
        settings: how nodes are treated.
    """

    def __init__(
        self,
        nodes: Sequence[NodeConfig],
        *,
        max_requests_per_minute: float | None = None,
        timeout: float = 600.0,
        settings: PoolSettings | None = None,
    ) -> None:
        if not nodes:
            raise ConfigError("a pool needs at least one node: client_nodes=['HOST:PORT', ...]")
        if timeout <= 0 or (max_requests_per_minute is not None and max_requests_per_minute <= 0):
            raise ConfigError("timeout and max_requests_per_minute are above 0")
        self.timeout = timeout
        self._per_minute = max_requests_per_minute
        self._settings = settings or PoolSettings()
        self.nodes = [Node(config, self._settings) for config in nodes]
        self._counters = PoolCounters()
        self._hedging = Hedging(self.nodes, self._settings, self._counters)
        self._bound: _Bound | None = None

    async def call(self, operation: Operation, build: Callable[[], Call], read: Callable[[bytes], T]) -> T:
        """Return the answer of one node, and count how the request ended.

        Args:
            operation: of the request.
            build: makes the request; run in a thread, once, when it is known that a node takes it.
            read: makes a result of a reply; run in a thread. `BadReply` counts as a failure of the node.

        Raises:
            NotOffered: no node does this.
            ToolError: a server's engine refused.
            ToolOutage: every attempt failed, no node can be reached, or none answered in time.
            ConfigError: a node cannot be used as it is configured.
        """
        counters = self._counters
        counters.requests += 1
        try:
            result = await self._answer_in_time(operation, build, read)
        except NotOffered:
            counters.requests -= 1
            raise
        except asyncio.CancelledError:
            counters.cancelled += 1
            raise
        except Unanswered:
            counters.timed_out += 1
            raise
        except Refused:
            counters.refused += 1
            raise
        except Exception:
            counters.failed += 1
            raise
        counters.answered += 1
        return result

    async def makers(self, operation: Operation) -> list[str]:
        """Return the models of the nodes that do this, each with its version, once a node has reported that it does.

        Raises:
            NotOffered: no node does this.
            ToolOutage: no node can be reached, or none answered in time; that counts as a request.
            ConfigError: no node can be used as it is configured.
        """
        if not any(node.offers(operation) for node in self.nodes):
            bound = self._bind()
            asked = asyncio.create_task(bound.checks.offered(operation))
            try:
                with bound.checks:
                    await bound.checks.wait_for(asked, self.timeout)
                    offered = self._result(asked)
            except Unanswered:
                self._counters.requests += 1
                self._counters.timed_out += 1
                raise
            finally:
                asked.cancel()
            if not offered:
                raise NotOffered(operation)
        return sorted({f"{node.model} {node.version}".strip() for node in self.nodes if node.offers(operation)})

    async def close(self) -> None:
        """Close connections and end the requests that still wait; the next call opens new ones."""
        bound, self._bound = self._bound, None
        if bound is not None and bound.loop is asyncio.get_running_loop():
            for work in bound.pending:
                work.cancel()
            await asyncio.gather(*bound.pending, return_exceptions=True)
            bound.checks.stop()
            await bound.transport.close()

    def get_statistics(self) -> PoolStatistics:
        """Return the statistics of the pool and its nodes."""
        counters, bound = self._counters, self._bound
        ended = counters.answered + counters.refused + counters.timed_out + counters.failed + counters.cancelled
        return PoolStatistics(
            **vars(counters),
            pending=counters.requests - ended,
            waiting=bound.queue.waiting if bound else 0,
            requests_per_minute_limit=self._per_minute,
            nodes=tuple(node.statistics() for node in self.nodes),
        )

    def print_statistics(self) -> None:
        """Print the statistics as a table on the console."""
        self.get_statistics().print()

    async def _answer_in_time(self, operation: Operation, build: Callable[[], Call], read: Callable[[bytes], T]) -> T:
        bound, deadline = self._bind(), time.monotonic() + self.timeout
        work = asyncio.create_task(self._answer(bound, operation, build, read, deadline))
        bound.pending.add(work)
        try:
            with bound.checks:
                await bound.checks.wait_for(work, self.timeout)
                return self._result(work)
        finally:
            bound.pending.discard(work)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _answer(
        self,
        bound: _Bound,
        operation: Operation,
        build: Callable[[], Call],
        read: Callable[[bytes], T],
        deadline: float,
    ) -> T:
        if not await bound.checks.offered(operation):
            raise NotOffered(operation)
        call = await asyncio.to_thread(build)
        failures: list[str] = []
        avoid: Node | None = None
        while True:
            try:
                return await bound.attempts.answer(call, read, deadline, avoid)
            except AttemptFault as fault:
                avoid = fault.node
                if isinstance(fault, Failed) and not fault.away:
                    failures.append(str(fault))
            if len(failures) >= self._settings.max_failures:
                raise ToolOutage(f"the image servers failed {len(failures)} times: {failures[-1]}")
            self._counters.retries += 1

    def _result(self, work: asyncio.Future[T]) -> T:
        if work.cancelled():
            raise Unanswered("the pool of image servers was closed before one answered: go on without this tool")
        if work.done():
            return work.result()
        states = "; ".join(f"{n.url}: {n.counters.last_error or n.statistics().state}" for n in self.nodes)
        if all(node.is_gone for node in self.nodes):
            raise Unanswered(f"no image server can be reached ({states}): start one, or leave the servers out")
        raise Unanswered(f"no image server answered within {self.timeout:g} s ({states})")

    def _bind(self) -> _Bound:
        """Return the parts of the running loop; they are made anew when it is another one than before."""
        loop = asyncio.get_running_loop()
        if self._bound is None or self._bound.loop is not loop:
            for node in self.nodes:
                node.clear_in_flight()
            transport = Transport(self._settings)
            queue = NodeQueue(self.nodes, None if self._per_minute is None else RateLimiter(self._per_minute))
            checks = HealthChecks(self.nodes, self._settings, transport, queue)
            attempts = Attempts(self.nodes, transport, queue, self._hedging)
            self._bound = _Bound(loop, transport, queue, checks, attempts)
        return self._bound
