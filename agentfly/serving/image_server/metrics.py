"""The counters of the server, and the Prometheus text made of them.

The numbers are plain attributes, so that counting costs nothing and needs no library; `prometheus_client` reads them
when somebody asks for `/metrics`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentfly.errors import MissingExtraError
from agentfly.serving.image_server.workers.messages import Operation

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from agentfly.serving.image_server.workers.dispatcher import Dispatcher

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 600.0)


class Histogram:
    """Seconds by operation, in `BUCKETS`."""

    def __init__(self) -> None:
        self._counts: dict[Operation, list[int]] = {}
        self._sums: Counter[Operation] = Counter()

    def observe(self, operation: Operation, seconds: float) -> None:
        """Count one call."""
        self._counts.setdefault(operation, [0] * (len(BUCKETS) + 1))[bisect_left(BUCKETS, seconds)] += 1
        self._sums[operation] += seconds  # type: ignore[assignment]

    def cumulative(self) -> Iterator[tuple[str, list[tuple[str, float]], float]]:
        """Operation, `(upper bound, calls up to it)` for every bucket, and the sum of seconds."""
        for operation, counts in self._counts.items():
            total, buckets = 0, []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, float(total)))
            yield operation.value, buckets, self._sums[operation]


@dataclass
class Counters:
    """Since the server started."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # (operation, HTTP status)
    request_seconds: Histogram = field(default_factory=Histogram)
    engine_seconds: Histogram = field(default_factory=Histogram)
    cancelled: int = 0
    expired: int = 0
    retries: int = 0
    restarts: int = 0
    rate_limited: int = 0


class Collector:
    """Hands the numbers to `prometheus_client`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        dispatcher, counters = self._dispatcher, self._dispatcher.counters
        requests = CounterMetricFamily("agentfly_image_requests", "Requests answered.", labels=("operation", "status"))
        for (operation, status), count in counters.requests.items():
            requests.add_metric((operation, str(status)), count)
        yield requests
        for name, text, histogram in (
            ("agentfly_image_request_seconds", "From the request to its reply.", counters.request_seconds),
            ("agentfly_image_engine_seconds", "In a worker.", counters.engine_seconds),
        ):
            family = HistogramMetricFamily(name, text, labels=("operation",))
            for label, buckets, total in histogram.cumulative():
                family.add_metric((label,), buckets, total)
            yield family
        for name, text, count in (
            ("cancelled", "Jobs whose client went away.", counters.cancelled),
            ("expired", "Jobs that met their deadline.", counters.expired),
            ("retries", "Jobs given to a second worker.", counters.retries),
            ("worker_restarts", "Workers started again.", counters.restarts),
            ("rate_limited", "Requests refused because their client had sent too many.", counters.rate_limited),
        ):
            yield CounterMetricFamily(f"agentfly_image_{name}", text, value=count)
        yield GaugeMetricFamily("agentfly_image_queue", "Jobs that wait.", value=dispatcher.waiting)
        yield GaugeMetricFamily("agentfly_image_running", "Jobs in workers.", value=dispatcher.running)
        states = Counter(worker.state for worker in dispatcher.workers)
        workers = GaugeMetricFamily("agentfly_image_workers", "Workers by state.", labels=("state",))
        for state in ("starting", "ready", "busy", "down"):
            workers.add_metric((state,), states[state])
        yield workers
        memory = GaugeMetricFamily("agentfly_image_gpu_memory_bytes", "Memory of a GPU.", labels=("worker", "kind"))
        for worker in dispatcher.workers:
            if worker.memory is not None:
                for kind, value in vars(worker.memory).items():
                    memory.add_metric((str(worker.index), kind), value)
        yield memory


def exposition(dispatcher: Dispatcher) -> Callable[[], bytes]:
    """What gives the Prometheus text.

    Raises:
        MissingExtraError: prometheus_client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ImportError as fault:
        raise MissingExtraError("the image server", "serve") from fault
    registry = CollectorRegistry()
    registry.register(Collector(dispatcher))
    return lambda: generate_latest(registry)
