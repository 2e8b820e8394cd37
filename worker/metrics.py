"""What Prometheus sees of this process."""

from collections.abc import Callable
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shared.pools import WorkerInfo
from shared.refs import RepoId

SWAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
GAP_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
WORK_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


class Outcome(StrEnum):
    """How an attempt ended, as the worker sees it; the queue knows whether a retried job has more."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRIED = "retried"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"


class TierName(StrEnum):
    """Where an adapter's bytes are."""

    DISK = "disk"
    RAM = "ram"
    GPU = "gpu"


class Gap(StrEnum):
    """What the compute device waited for between two jobs."""

    TURNOVER = "turnover"
    """For nothing but the worker itself."""
    ADAPTERS = "adapters"
    """Jobs were claimed, but the adapters of none were there yet."""
    WORK = "work"
    """No job was to be had."""


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
        for outcome in Outcome:  # at 0: of a series that begins at 1, Prometheus sees no increase
            self._jobs.labels(base, outcome)
        self.images = self._counter("images", "Images made.")
        self.fetch = self._histogram(
            "adapter_fetch_seconds", "Time until a job's adapters were in RAM.", WORK_BUCKETS
        )
        self.swap = self._histogram(
            "adapter_swap_seconds", "Time to make a job's adapters active.", SWAP_BUCKETS
        )
        self.inference = self._histogram("inference_seconds", "Time to draw one image.", WORK_BUCKETS)
        self.step = self._histogram("inference_step_seconds", "Time of one denoising step.", STEP_BUCKETS)
        self._gap = Histogram(
            "warmbase_compute_gap_seconds",
            "Time that the compute device idled between two jobs, each part by what it waited for.",
            ["base_model", "reason"],
            buckets=GAP_BUCKETS,
            registry=self.registry,
        )
        self._hits = self._by_tier("hits", "Adapters of claimed jobs that were found in the tier.")
        self._misses = self._by_tier("misses", "Adapters of claimed jobs that were not.")
        self._evictions = self._by_tier("evictions", "Adapters that had to leave the tier.")
        self._tier_bytes = Gauge(
            "warmbase_adapter_tier_bytes",
            "Bytes of adapters in the tier.",
            ["base_model", "tier"],
            registry=self.registry,
        )
        self.ready = self._gauge("worker_ready", "Whether the worker takes jobs.")

    def finished(self, outcome: Outcome) -> None:
        """Count the end of an attempt."""
        self._jobs.labels(self._base, outcome).inc()

    def waited(self, reason: Gap, seconds: float) -> None:
        """Note how long the compute device idled for `reason` before a job."""
        self._gap.labels(self._base, reason).observe(seconds)

    def looked_up(self, tier: TierName, *, hit: bool) -> None:
        """Count whether an adapter that a job needs was in the tier."""
        (self._hits if hit else self._misses).labels(self._base, tier).inc()

    def watch_tier(self, tier: TierName, nbytes: Callable[[], int]) -> None:
        """Publish the bytes of the tier."""
        self._tier_bytes.labels(self._base, tier).set_function(nbytes)

    def evicted(self, tier: TierName) -> Callable[[], None]:
        """Return what counts an eviction from the tier."""
        return self._evictions.labels(self._base, tier).inc

    def describe(self, worker: WorkerInfo) -> None:
        """Publish what the worker is."""
        names = ["worker", "base_model", "base_revision", "device", "dtype"]
        info = Gauge("warmbase_worker_info", "What the worker is.", names, registry=self.registry)
        info.labels(worker.id, worker.base, worker.base_revision, worker.device, worker.dtype).set(1)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _by_tier(self, name: str, text: str) -> Counter:
        labels = ["base_model", "tier"]
        return Counter(f"warmbase_adapter_tier_{name}", text, labels, registry=self.registry)

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
