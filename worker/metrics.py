"""What Prometheus sees of this process."""

from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shared.pools import WorkerInfo
from shared.refs import RepoId

SWAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
WORK_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


class Outcome(StrEnum):
    """How an attempt ended, as the worker sees it; the queue knows whether a retried job has more."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRIED = "retried"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"


class WorkerMetrics:
    """The metrics of one worker, in a registry of its own. No label holds an adapter's id."""

    def __init__(self, base: RepoId) -> None:
        self.registry = CollectorRegistry()
        self._jobs = Counter(
            "warmbase_attempts_finished",
            "Attempts that ended, by outcome.",
            ["base_model", "outcome"],
            registry=self.registry,
        )
        self._base = base
        self.images = self._counter("images", "Images made.")
        self.fetch = self._histogram(
            "adapter_fetch_seconds", "Time until a job's adapters were in RAM.", WORK_BUCKETS
        )
        self.swap = self._histogram(
            "adapter_swap_seconds", "Time to make a job's adapters active.", SWAP_BUCKETS
        )
        self.inference = self._histogram("inference_seconds", "Time to draw one image.", WORK_BUCKETS)
        self.step = self._histogram("inference_step_seconds", "Time of one denoising step.", STEP_BUCKETS)
        self.ram_hits = self._counter("adapter_ram_hits", "Adapters found in RAM.")
        self.ram_misses = self._counter("adapter_ram_misses", "Adapters not found in RAM.")
        self.ram_evictions = self._counter("adapter_ram_evictions", "Adapters that had to leave RAM.")
        self.ram_bytes = self._gauge("adapter_ram_bytes", "Bytes of adapters in RAM.")
        self.ready = self._gauge("worker_ready", "Whether the worker takes jobs.")

    def finished(self, outcome: Outcome) -> None:
        """Count the end of an attempt."""
        self._jobs.labels(self._base, outcome).inc()

    def describe(self, worker: WorkerInfo) -> None:
        """Publish what the worker is."""
        names = ["worker", "base_model", "base_revision", "device", "dtype"]
        info = Gauge("warmbase_worker_info", "What the worker is.", names, registry=self.registry)
        info.labels(worker.id, worker.base, worker.base_revision, worker.device, worker.dtype).set(1)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"warmbase_{name}", text, ["base_model"], registry=self.registry)
        return counter.labels(self._base)

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(f"warmbase_{name}", text, ["base_model"], registry=self.registry)
        return gauge.labels(self._base)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(
            f"warmbase_{name}", text, ["base_model"], buckets=buckets, registry=self.registry
        )
        return histogram.labels(self._base)
