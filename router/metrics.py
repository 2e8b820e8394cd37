"""The router's metrics, in a registry of their own. No label holds an adapter's id."""

from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from shared.jobs import Job
from shared.refs import RepoId

IMAGE_SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """What this process counts, and what it reads of the queues at a scrape."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._http = Counter(
            "warmbase_http_requests", "HTTP requests.", ("route", "method", "code"), registry=registry
        )
        self._http_seconds = Histogram(
            "warmbase_http_request_duration_seconds",
            "Duration of HTTP requests.",
            ("route", "method"),
            registry=registry,
            buckets=(0.005, 0.025, *IMAGE_SECONDS),
        )
        self._enqueued = Counter(
            "warmbase_jobs_enqueued", "Jobs enqueued.", ("base_model", "kind"), registry=registry
        )
        self._finished = Counter(
            "warmbase_jobs_finished",
            "Ends of the jobs that this router waited for.",
            ("base_model", "outcome", "reason"),
            registry=registry,
        )
        self._e2e = Histogram(
            "warmbase_job_e2e_seconds",
            "From enqueue to the end of a job, as its router saw it.",
            ("base_model", "kind"),
            registry=registry,
            buckets=IMAGE_SECONDS,
        )
        self._classified = Counter(
            "warmbase_classify", "Classifications of ids.", ("verdict",), registry=registry
        )
        self._hub = Counter(
            "warmbase_hub_requests", "Calls to the Hub.", ("endpoint", "code"), registry=registry
        )
        self._hub_seconds = Histogram(
            "warmbase_hub_request_seconds",
            "Duration of calls to the Hub.",
            ("endpoint",),
            registry=registry,
            buckets=CALL_SECONDS,
        )
        self._loads = tuple(
            Gauge(name, help_text, ("base_model",), registry=registry)
            for name, help_text in (
                ("warmbase_queue_depth", "Jobs that wait."),
                ("warmbase_jobs_running", "Jobs that run."),
                ("warmbase_queue_oldest_age_seconds", "Time that the oldest waiting job has waited."),
            )
        )

    def http_request(self, route: str, method: str, code: int, seconds: float) -> None:
        """Count one answered request."""
        self._http.labels(route, method, str(code)).inc()
        self._http_seconds.labels(route, method).observe(seconds)

    def job_enqueued(self, job: Job) -> None:
        """Count one job that its queue took."""
        self._enqueued.labels(job.base, _kind(job)).inc()

    def job_finished(self, job: Job, outcome: str, reason: str, seconds: float) -> None:
        """Count one end: succeeded, failed, cancelled or expired; `reason` is an error's code, or empty."""
        self._finished.labels(job.base, outcome, reason).inc()
        self._e2e.labels(job.base, _kind(job)).observe(seconds)

    def classified(self, verdict: str) -> None:
        """Count one classification."""
        self._classified.labels(verdict).inc()

    def hub_request(self, endpoint: str, code: str, seconds: float) -> None:
        """Count one call to the Hub."""
        self._hub.labels(endpoint, code).inc()
        self._hub_seconds.labels(endpoint).observe(seconds)

    def set_loads(self, loads: Mapping[RepoId, tuple[int, int, float]]) -> None:
        """Say of each live base how many jobs wait, how many run, and the age of the oldest."""
        for place, gauge in enumerate(self._loads):
            gauge.clear()  # bases that are no longer served shall not keep their last value
            for base, load in loads.items():
                gauge.labels(base).set(load[place])

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def _kind(job: Job) -> str:
    return "lora" if job.adapters else "base"
