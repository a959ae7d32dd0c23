"""Prometheus metrics of the image server. The import raises `MissingExtraError` without prometheus_client."""

from __future__ import annotations

from agentfly.errors import MissingExtraError

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
except ImportError as fault:
    raise MissingExtraError("the image server", "serve") from fault

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 600.0)


class Metrics:
    """The metrics of one server, in a registry of their own.

    Their names begin with `agentfly_image_`. The gauges are filled by the dispatcher.
    """

    def __init__(self) -> None:
        # A second series for each one, with its time of creation, would be of use to nobody.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "operation", "status")
        self.request_seconds = self._histogram("request_seconds", "From the request to its reply.")
        self.engine_seconds = self._histogram("engine_seconds", "In a worker.")
        self.cancelled = self._counter("cancelled", "Jobs whose client went away.")
        self.expired = self._counter("expired", "Jobs that met their deadline.")
        self.retries = self._counter("retries", "Jobs given to a second worker.")
        self.worker_restarts = self._counter("worker_restarts", "Workers started again.")
        self.rate_limited = self._counter("rate_limited", "Requests refused because their client had sent too many.")
        self.queue = self._gauge("queue", "Jobs that wait.")
        self.running = self._gauge("running", "Jobs in workers.")
        self.workers = self._gauge("workers", "Workers by state.", "state")
        self.gpu_memory = self._gauge("gpu_memory_bytes", "Memory of a GPU.", "worker", "kind")

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"agentfly_image_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"agentfly_image_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"agentfly_image_{name}", text, ("operation",), registry=self.registry, buckets=_BUCKETS)
