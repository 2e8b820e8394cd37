"""What the queue of a base takes and gives: settings, leases, claims, admissions, how it stands."""

from dataclasses import dataclass
from enum import StrEnum

from shared.jobs import Job, JobId, JobRecord, WorkerId


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueSettings:
    """How a base's queue behaves; the same for all its users. Times are in seconds.

    Attributes:
        lease: how long a claim or a heartbeat holds a job.
        max_crashes: a job whose worker died this often is given up instead of running again.
        max_attempts: claims a job gets when it fails for a reason that may pass.
        max_waiting: waiting jobs before enqueue refuses.
        max_waiting_per_tenant: those of one tenant; well below, so that nobody fills the queue for all.
        slack: work by which a job may be passed for one whose adapters a worker holds, in average jobs.
        max_overtakes: how often it may be passed.
        max_age: waiting after which it is not passed any more.
        max_adapter_crashes: workers that may die with the same adapters before these are refused.
        quarantine: how long they are.
        record_ttl: how long the record of an ended job is kept.
        dead_ttl: how long that of one that was given up is.
        max_dead: how many of these the operator is shown.
        claim_memory: how long a worker's last claim is kept, to answer it again.
        router_ttl: how long a router that says nothing is believed to wait for its jobs.
    """

    lease: float = 4.0
    max_crashes: int = 2
    max_attempts: int = 3
    max_waiting: int = 10_000
    max_waiting_per_tenant: int = 1000
    slack: float = 64.0
    max_overtakes: int = 16
    max_age: float = 60.0
    max_adapter_crashes: int = 3
    quarantine: int = 600
    record_ttl: int = 600
    dead_ttl: int = 7 * 24 * 3600
    max_dead: int = 1000
    claim_memory: int = 120
    router_ttl: float = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The right to run a job, and to write about it.

    Attributes:
        fence: what every write is checked against.
        attempt: counts from 1.
        crashes: workers that died with this job before, whoever was to blame.
    """

    job: Job
    worker: WorkerId
    fence: int
    attempt: int
    crashes: int

    @property
    def is_suspect(self) -> bool:
        """Whether the job may be what killed a worker: no other is to be held while it is drawn."""
        return self.crashes > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a claim gave.

    Attributes:
        leases: the jobs to run, in their order.
        hints: what is likely to come next, to fetch its adapters meanwhile. Without callers' tokens.
        next_due: seconds until a delayed job may be claimed; None when none is delayed.
    """

    leases: tuple[Lease, ...] = ()
    hints: tuple[Job, ...] = ()
    next_due: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a heartbeat says of one job: the lease it renews, and denoising steps done and to do."""

    lease: Lease
    step: int
    total: int


class LeaseState(StrEnum):
    """What a heartbeat learns of a lease."""

    HELD = "held"
    LOST = "lost"
    CANCELLED = "cancelled"


class Enqueued(StrEnum):
    """What an enqueue did, or would do. Only ADDED changes anything."""

    ADDED = "added"
    KNOWN = "known"
    CONFLICT = "conflict"
    """The idempotency key stands for another request."""
    FULL = "full"
    TENANT_FULL = "tenant_full"
    CLOSED = "closed"
    """The base is being drained."""
    QUARANTINED = "quarantined"


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """The answer to an enqueue.

    Attributes:
        job: the job's id, which is another one for an idempotency key that is known.
        seconds: the expected work of all that waits; if QUARANTINED, how long that still lasts.
    """

    outcome: Enqueued
    job: JobId
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class IdempotencyKey:
    """A client's promise that two requests are one: digests of the tenant's key and of the request."""

    key: str
    request: str


class Mode(StrEnum):
    """What a base's queue does for the operator."""

    OPEN = "open"
    PAUSED = "paused"
    """Jobs are taken and wait; none is handed out."""
    DRAINING = "draining"
    """No new job is taken; those that wait are handed out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """How a base's queue stands, at one moment.

    Attributes:
        waiting: jobs that may be claimed now.
        delayed: jobs whose next attempt is not due.
        given_up: jobs that are kept for the operator.
        oldest_wait: seconds that the oldest waiting job has waited; 0.0 when none waits.
        work: the expected seconds of all that waits, delayed or not, for a single worker.
        now: the server's time, seconds since the epoch.
    """

    mode: Mode
    waiting: int
    delayed: int
    running: int
    given_up: int
    oldest_wait: float
    work: float
    now: float


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownJob:
    """All that is known of a job.

    Attributes:
        job: what was asked for, without the caller's token; None once it has ended, unless it was given up.
        given_up: whether it may be revived or dropped.
        now: the server's time, seconds since the epoch; the record's times are by the same clock.
    """

    record: JobRecord
    job: Job | None
    given_up: bool
    now: float
