"""What a server counts, for Prometheus."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from editreward.scorers.batching import BatcherEvents

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
EDITS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics(BatcherEvents):
    """Counters of one server; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by endpoint and status.", "endpoint", "status")
        self.items = self._counter("items", "Edits by outcome: scored or failed.", "outcome")
        self.failures = self._counter("failures", "Edits and requests without scores, by reason.", "reason")
        self.batch_groups = self._histogram("batch_groups", "Groups of a call of the scorer.", EDITS)
        self.batch_edits = self._histogram("batch_edits", "Edits of a call of the scorer.", EDITS)
        self.stages = self._histogram("stage_seconds", "Seconds by stage of a request or a call.", SECONDS, "stage")
        self.held = Gauge("editreward_held_bytes", "Bytes of bodies and images that are held.", registry=self.registry)
        self.in_flight = Gauge("editreward_in_flight", "Requests that are being answered.", registry=self.registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"editreward_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"editreward_{name}", about, labels, buckets=buckets, registry=self.registry)

    def watch_queue(self, queued: Callable[[], float]) -> None:
        """Have the edits that wait read whenever somebody asks."""
        gauge = Gauge("editreward_queued_edits", "Edits that wait for the scorer.", registry=self.registry)
        gauge.set_function(queued)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of a request."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - started)

    def scored(self, groups: int, edits: int, seconds: float, waited: float) -> None:
        self.batch_groups.observe(groups)
        self.batch_edits.observe(edits)
        self.stages.labels("score").observe(seconds)
        self.stages.labels("queue").observe(waited)

    def dropped(self, groups: int) -> None:
        self.failures.labels("deadline").inc(groups)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
