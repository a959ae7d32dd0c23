"""Decide when a second node is asked beside the first: how long is unusually long, and how often this may happen."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from agentfly.vision.remote.adapters import Operation
from agentfly.vision.remote.node import Node
from agentfly.vision.remote.settings import PoolSettings
from agentfly.vision.remote.statistics import PoolCounters, quantile

_LEAST_DELAY = 0.05


class Hedging:
    """What a pool has learnt of the time that answers take.

    Args:
        nodes: of the pool.
        settings: how eagerly it hedges.
        counters: of the pool; hedges are counted there.
    """

    def __init__(self, nodes: Sequence[Node], settings: PoolSettings, counters: PoolCounters) -> None:
        self._nodes, self._settings, self._counters = nodes, settings, counters
        self._seconds: dict[Operation, deque[float]] = {}

    def learn(self, operation: Operation, seconds: float) -> None:
        """Note how long an answer took."""
        self._seconds.setdefault(operation, deque(maxlen=256)).append(seconds)

    def delay(self, operation: Operation) -> float | None:
        """Seconds after which an attempt takes unusually long; None where it is never hedged, or not yet."""
        settings, seconds = self._settings, self._seconds.get(operation, ())
        if len(self._nodes) < 2 or not settings.hedge_factor or len(seconds) < settings.hedge_after:
            return None
        slow = quantile(list(seconds), 0.95)
        return None if slow is None else max(_LEAST_DELAY, settings.hedge_factor * slow)

    def allows(self, operation: Operation, taken: Node) -> bool:
        """Whether another node is idle, and the share of hedges is not used up; counts one if so."""
        counters, nodes = self._counters, self._nodes
        if counters.hedges >= 1 + self._settings.hedge_share * counters.requests:
            return False
        allowed = any(n is not taken and not n.in_flight and n.offers(operation) and n.free() for n in nodes)
        counters.hedges += allowed
        return allowed
