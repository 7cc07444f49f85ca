"""Metrics of a server in the text format of Prometheus."""

from typing import TypedDict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Own(TypedDict):
    """The keyword arguments that all metrics share."""

    registry: CollectorRegistry
    namespace: str


SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
"""Upper bounds of the histograms of times."""


class ServeMetrics:
    """The metrics of one server, with a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Own = {"registry": self.registry, "namespace": "dalle_jax"}
        self.queue = Gauge("queue_jobs", "Jobs that wait for the devices", **own)
        self.batch = Gauge("batch_images", "Images that are drawn at once", **own)
        self.wait = Histogram("wait_seconds", "Time of jobs in the queue", buckets=SECONDS, **own)
        self.job_seconds = Histogram("job_seconds", "Time of jobs from start to end", buckets=SECONDS, **own)
        self.step = Histogram("step_seconds", "Time of one step of the devices", ["model"], buckets=SECONDS, **own)
        self.images = Counter("images", "Images drawn", ["model"], **own)
        self.jobs = Counter("jobs", "Jobs by their end", ["model", "end"], **own)
        self.errors = Counter("errors", "Errors by kind", ["kind"], **own)
        self.requests = Counter("requests", "Answers by route and status", ["route", "status"], **own)
        self.seconds = Histogram(
            "request_seconds", "Time of a request until its answer is sent", ["route"], buckets=SECONDS, **own
        )
        self.compiles = Gauge("compiles", "Programs that XLA compiled since the start", **own)

    def text(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self.registry)
