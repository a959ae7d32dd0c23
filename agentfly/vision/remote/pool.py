"""Many image servers as one: every request is answered by one of them, once.

A request goes to the least loaded node that can do it. It moves on when a node fails, is busy or goes away, and a copy
goes to an idle node when the first takes unusually long; the first answer counts and the other is cancelled. Requests
beyond what the nodes take at once wait here, first come first served, so that servers see no more than they can hold.
The rate limit counts every attempt, retries and hedges included. When no node answers in time, the model is told so.

Nodes are watched while there are requests, and only then. A pool may be used from one event loop after another, not
from two at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentfly.errors import ConfigError, ToolError
from agentfly.rate_limit import RateLimiter
from agentfly.vision.remote.adapters import Call, Operation
from agentfly.vision.remote.faults import AttemptFault, Busy, Failed, NotOffered, Refused, Unanswered
from agentfly.vision.remote.nodes import Circuit, Node, NodeConfig, PoolSettings
from agentfly.vision.remote.statistics import PoolCounters, PoolStatistics, quantile
from agentfly.vision.remote.transport import Transport

logger = logging.getLogger(__name__)

T = TypeVar("T")
_POLL = 0.05


@dataclass(eq=False)
class _Waiter:
    future: asyncio.Future[Node]
    avoid: Node | None


@dataclass(eq=False)
class _Flight:
    """An attempt, as the request that made it sees it."""

    node: Node | None = None
    sent: float | None = None


@dataclass(eq=False)
class _Bound:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    transport: Transport
    limiter: RateLimiter | None
    waiters: dict[Operation, deque[_Waiter]] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None
    watchers: list[asyncio.Task[None]] = field(default_factory=list)
    pending: int = 0


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
            raise ConfigError("a pool needs at least one node: client_nodes=[(host, port), ...]")
        if timeout <= 0 or (max_requests_per_minute is not None and max_requests_per_minute <= 0):
            raise ConfigError("timeout and max_requests_per_minute are above 0")
        self.timeout = timeout
        self._per_minute = max_requests_per_minute
        self._settings = settings or PoolSettings()
        self.nodes = [Node(config, self._settings) for config in nodes]
        self._counters = PoolCounters()
        self._seconds: dict[Operation, deque[float]] = {}
        self._bound: _Bound | None = None

    async def call(self, operation: Operation, build: Callable[[], Call], read: Callable[[bytes], T]) -> T:
        """The answer of one node.

        Args:
            operation: what is asked.
            build: makes the request; run in a thread, once, when it is known that a node takes it.
            read: makes a result of a reply; run in a thread. `BadReply` counts as a failure of the node.

        Raises:
            NotOffered: no node does this.
            ToolError: a server's engine refused, every attempt failed, or no node answered in time.
            ConfigError: a node cannot be used as it is configured.
        """
        bound, counters = self._bind(), self._counters
        deadline = time.monotonic() + self.timeout
        counters.requests += 1
        work = asyncio.ensure_future(self._answer(bound, operation, build, read, deadline))
        try:
            with _Pending(self, bound):
                await asyncio.wait({work}, timeout=self.timeout)
                if not work.done():
                    raise Unanswered(self._unanswered())
                result = work.result()
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
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def close(self) -> None:
        """Close connections; the next call opens new ones."""
        bound, self._bound = self._bound, None
        if bound is not None and bound.loop is asyncio.get_running_loop():
            _end(bound)
            await bound.transport.close()

    def get_statistics(self) -> PoolStatistics:
        """What the pool did so far, by node."""
        counters, bound = self._counters, self._bound
        ended = counters.answered + counters.refused + counters.timed_out + counters.failed + counters.cancelled
        waiting = sum(not w.future.done() for queue in bound.waiters.values() for w in queue) if bound else 0
        return PoolStatistics(
            **vars(counters),
            pending=counters.requests - ended,
            waiting=waiting,
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
        if not await self._offered(bound, operation):
            raise NotOffered(operation)
        call = await asyncio.to_thread(build)
        failures: list[str] = []
        avoid: Node | None = None
        while True:
            try:
                return await self._hedged(bound, call, read, deadline, avoid)
            except AttemptFault as fault:
                avoid = fault.node
                if isinstance(fault, Failed) and not fault.away:
                    failures.append(str(fault))
            if len(failures) >= self._settings.max_failures:
                raise ToolError(f"the image servers failed {len(failures)} times: {failures[-1]}")
            self._counters.retries += 1

    async def _offered(self, bound: _Bound, operation: Operation) -> bool:
        """Whether a node does this; waits until one that answers has said what it does."""
        while True:
            if any(node.offers(operation) for node in self.nodes):
                return True
            self._check_usable()
            known = any(node.operations is not None for node in self.nodes)
            if known and all(node.asked and not node.starting and not self._stale(node) for node in self.nodes):
                return False
            await bound.news.wait()

    def _stale(self, node: Node) -> bool:
        """Whether another server may have taken the place of a node since it was last asked what it does."""
        return node.circuit is not Circuit.open and node.age >= self._settings.health_seconds

    async def _hedged(
        self, bound: _Bound, call: Call, read: Callable[[bytes], T], deadline: float, avoid: Node | None
    ) -> T:
        """One attempt, and a second beside it when the first takes unusually long."""
        delay = self._hedge_delay(call.operation)
        flight = _Flight()
        first = asyncio.create_task(self._attempt(bound, call, read, deadline, avoid, flight))
        attempts = {first}
        try:
            while delay is not None and len(attempts) == 1:
                await asyncio.wait({first}, timeout=delay)
                if first.done():
                    break
                if flight.sent is not None and time.monotonic() - flight.sent >= delay:
                    if not self._may_hedge(call.operation, flight.node):
                        break
                    self._counters.hedges += 1
                    second = self._attempt(bound, call, read, deadline, flight.node, _Flight(), hedge=True)
                    attempts.add(asyncio.create_task(second))
            return await _first_answer(attempts)
        finally:
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    def _hedge_delay(self, operation: Operation) -> float | None:
        settings, seconds = self._settings, self._seconds.get(operation, ())
        if len(self.nodes) < 2 or not settings.hedge_factor or len(seconds) < settings.hedge_after:
            return None
        slow = quantile(list(seconds), 0.95)
        return None if slow is None else max(0.05, settings.hedge_factor * slow)

    def _may_hedge(self, operation: Operation, taken: Node | None) -> bool:
        counters = self._counters
        if counters.hedges >= 1 + self._settings.hedge_share * counters.requests:
            return False
        return any(node is not taken and node.in_flight == 0 and node.free() for node in self._able(operation))

    async def _attempt(
        self,
        bound: _Bound,
        call: Call,
        read: Callable[[bytes], T],
        deadline: float,
        avoid: Node | None,
        flight: _Flight,
        hedge: bool = False,
    ) -> T:
        node = await self._take(bound, call.operation, avoid)
        try:
            flight.node, flight.sent = node, time.monotonic()
            return await self._counted(bound, node, call, read, deadline, hedge)
        finally:
            node.in_flight -= 1
            self._dispatch(bound)

    async def _counted(
        self, bound: _Bound, node: Node, call: Call, read: Callable[[bytes], T], deadline: float, hedge: bool
    ) -> T:
        counters, started = node.counters, time.monotonic()
        counters.attempts += 1
        try:
            result = await bound.transport.send(node, call, read, deadline)
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
        except Failed as fault:
            counters.failed += 1
            self._note(node, fault.reason, away=fault.away)
            raise
        except ConfigError as fault:
            counters.failed += 1
            node.unusable = str(fault)
            self._note(node, str(fault), away=True)
            self._check_usable()
            raise Failed(node, str(fault), away=True) from fault
        seconds = time.monotonic() - started
        counters.answered += 1
        counters.hedges_won += hedge
        node.succeeded(call.operation, seconds)
        self._seconds.setdefault(call.operation, deque(maxlen=256)).append(seconds)
        return result

    def _note(self, node: Node, reason: str, *, away: bool) -> None:
        node.failed(reason, away=away)
        if node.circuit is Circuit.open:
            logger.warning("%s is left alone for a while: %s", node.url, reason)

    async def _take(self, bound: _Bound, operation: Operation, avoid: Node | None) -> Node:
        """A node with a place taken on it, admitted by the rate limit."""
        while True:
            node = await self._place(bound, operation, avoid)
            try:
                if bound.limiter is not None:
                    await bound.limiter.acquire()
            except BaseException:
                self._give_back(bound, node)
                raise
            # It may have gone away while the rate limit kept us waiting.
            if node.circuit is not Circuit.open:
                return node
            self._give_back(bound, node)

    async def _place(self, bound: _Bound, operation: Operation, avoid: Node | None) -> Node:
        queue = bound.waiters.setdefault(operation, deque())
        waiter = _Waiter(bound.loop.create_future(), avoid)
        queue.append(waiter)
        self._dispatch(bound)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self._give_back(bound, waiter.future.result())
            raise

    def _give_back(self, bound: _Bound, node: Node) -> None:
        node.in_flight -= 1
        self._dispatch(bound)

    def _dispatch(self, bound: _Bound) -> None:
        """Give free places to those who wait, in their order."""
        for operation, queue in bound.waiters.items():
            while queue:
                waiter = queue[0]
                if not waiter.future.done():
                    node = self._choose(operation, waiter.avoid)
                    if node is None:
                        break
                    node.in_flight += 1
                    waiter.future.set_result(node)
                queue.popleft()
        self._arm(bound)

    def _able(self, operation: Operation) -> list[Node]:
        return [node for node in self.nodes if node.offers(operation)]

    def _choose(self, operation: Operation, avoid: Node | None) -> Node | None:
        free = [node for node in self._able(operation) if node.free()]
        return min(free, key=lambda n: (n is avoid, n.load, n.counters.attempts), default=None)

    def _arm(self, bound: _Bound) -> None:
        """Look again when a pause that a node asked for is over. Open circuits are for the watchers."""
        if bound.timer is not None:
            bound.timer.cancel()
            bound.timer = None
        if any(bound.waiters.values()):
            now = time.monotonic()
            ends = [n.not_before for n in self.nodes if n.circuit is not Circuit.open and n.not_before > now]
            if ends:
                bound.timer = bound.loop.call_later(min(ends) - now + 0.001, self._dispatch, bound)

    async def _watch(self, bound: _Bound, node: Node) -> None:
        """Probe a node when it is new, when it may be back, and now and then."""
        while True:
            if node.to_probe() or self._stale(node):
                was = node.circuit
                await bound.transport.probe(node)
                if node.circuit is not was:
                    logger.info("%s is %s %s", node.url, node.statistics().state, node.counters.last_error)
                bound.news.set()
                bound.news.clear()
                self._dispatch(bound)
            await asyncio.sleep(_POLL)

    def _check_usable(self) -> None:
        if all(node.unusable for node in self.nodes):
            raise ConfigError("; ".join(node.unusable for node in self.nodes))

    def _unanswered(self) -> str:
        states = "; ".join(f"{n.url}: {n.counters.last_error or n.statistics().state}" for n in self.nodes)
        return f"no image server answered within {self.timeout:g} s ({states}): go on without this tool, or try later"

    def _bind(self) -> _Bound:
        """What belongs to the running loop, made anew when it is another one than before."""
        loop = asyncio.get_running_loop()
        if self._bound is None or self._bound.loop is not loop:
            limiter = None if self._per_minute is None else RateLimiter(self._per_minute)
            self._bound = _Bound(loop, Transport(self._settings), limiter)
            for node in self.nodes:
                node.forget()
        return self._bound


class _Pending:
    """Keeps the watchers of a pool alive while there are requests."""

    def __init__(self, pool: NodePool, bound: _Bound) -> None:
        self._pool, self._bound = pool, bound

    def __enter__(self) -> None:
        bound = self._bound
        bound.pending += 1
        if not bound.watchers:
            bound.watchers = [bound.loop.create_task(self._pool._watch(bound, node)) for node in self._pool.nodes]

    def __exit__(self, *_: Any) -> None:
        self._bound.pending -= 1
        if not self._bound.pending:
            _end(self._bound)


def _end(bound: _Bound) -> None:
    for watcher in bound.watchers:
        watcher.cancel()
    bound.watchers = []
    if bound.timer is not None:
        bound.timer.cancel()


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
