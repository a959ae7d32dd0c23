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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentfly.aio import RateLimiter
from agentfly.errors import ConfigError, ToolOutage
from agentfly.vision.remote.adapters import Call, Operation
from agentfly.vision.remote.attempts import Attempts
from agentfly.vision.remote.faults import AttemptFault, Failed, NotOffered, Refused, Unanswered
from agentfly.vision.remote.health_check import Watch
from agentfly.vision.remote.hedging import Hedging
from agentfly.vision.remote.node import Node
from agentfly.vision.remote.node_queue import Places
from agentfly.vision.remote.settings import NodeConfig, PoolSettings
from agentfly.vision.remote.statistics import PoolCounters, PoolStatistics
from agentfly.vision.remote.transport import Transport

T = TypeVar("T")


@dataclass(eq=False)
class _Bound:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    transport: Transport
    places: Places
    watch: Watch
    attempts: Attempts
    pending: set[asyncio.Future[Any]] = field(default_factory=set)


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
        """The answer of one node.

        Args:
            operation: what is asked.
            build: makes the request; run in a thread, once, when it is known that a node takes it.
            read: makes a result of a reply; run in a thread. `BadReply` counts as a failure of the node.

        Raises:
            NotOffered: no node does this.
            ToolError: a server's engine refused.
            ToolOutage: every attempt failed, no node can be reached, or none answered in time.
            ConfigError: a node cannot be used as it is configured.
        """
        bound, counters = self._bind(), self._counters
        deadline = time.monotonic() + self.timeout
        counters.requests += 1
        work = asyncio.ensure_future(self._answer(bound, operation, build, read, deadline))
        bound.pending.add(work)
        try:
            with bound.watch:
                await bound.watch.wait_for(work, self.timeout)
                result = self._result(work)
            counters.answered += 1
            return result
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
        finally:
            bound.pending.discard(work)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def makers(self, operation: Operation) -> list[str]:
        """Models of the nodes that do this, each with its version; waits until a node has said that it does.

        Raises:
            NotOffered: no node does this.
            ToolOutage: no node can be reached, or none answered in time; that counts as a request.
            ConfigError: no node can be used as it is configured.
        """
        if not any(node.offers(operation) for node in self.nodes):
            bound = self._bind()
            asked = asyncio.ensure_future(bound.watch.offered(operation))
            try:
                with bound.watch:
                    await bound.watch.wait_for(asked, self.timeout)
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
        """Close connections, and end what still waits; the next call opens new ones."""
        bound, self._bound = self._bound, None
        if bound is not None and bound.loop is asyncio.get_running_loop():
            for work in bound.pending:
                work.cancel()
            await asyncio.gather(*bound.pending, return_exceptions=True)
            bound.watch.stop()
            await bound.transport.close()

    def get_statistics(self) -> PoolStatistics:
        """What the pool did so far, by node."""
        counters, bound = self._counters, self._bound
        ended = counters.answered + counters.refused + counters.timed_out + counters.failed + counters.cancelled
        return PoolStatistics(
            **vars(counters),
            pending=counters.requests - ended,
            waiting=bound.places.waiting if bound else 0,
            requests_per_minute_limit=self._per_minute,
            nodes=tuple(node.statistics() for node in self.nodes),
        )

    def print_statistics(self) -> None:
        """The statistics as a table on the console."""
        self.get_statistics().print()

    async def _answer(
        self,
        bound: _Bound,
        operation: Operation,
        build: Callable[[], Call],
        read: Callable[[bytes], T],
        deadline: float,
    ) -> T:
        if not await bound.watch.offered(operation):
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
        if not work.done():
            raise self._unanswered()
        if work.cancelled():
            raise Unanswered("the pool of image servers was closed before one answered: go on without this tool")
        return work.result()

    def _unanswered(self) -> Unanswered:
        states = "; ".join(f"{n.url}: {n.counters.last_error or n.statistics().state}" for n in self.nodes)
        if all(node.is_gone for node in self.nodes):
            return Unanswered(f"no image server can be reached ({states}): start one, or leave the servers out")
        return Unanswered(f"no image server answered within {self.timeout:g} s ({states})")

    def _bind(self) -> _Bound:
        """What belongs to the running loop, made anew when it is another one than before."""
        loop = asyncio.get_running_loop()
        if self._bound is None or self._bound.loop is not loop:
            for node in self.nodes:
                node.forget()
            transport = Transport(self._settings)
            places = Places(self.nodes, None if self._per_minute is None else RateLimiter(self._per_minute))
            watch = Watch(self.nodes, self._settings, transport, places)
            self._bound = _Bound(loop, transport, places, watch, Attempts(self.nodes, transport, places, self._hedging))
        return self._bound
