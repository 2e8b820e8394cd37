"""The queue of one base. Its docstrings are the delivery semantics.

At-least-once execution, exactly-once answer: a job may be run by several workers in turn, but only the
holder of its current lease can end it, and it ends once. Every call may be repeated after a lost reply:
the second call finds what the first one did. All times are the server's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from redis.asyncio import Redis

from shared.codec import (
    RECORD_FIELDS,
    CodecError,
    decode_job,
    decode_record,
    encode_error,
    encode_job,
    encode_result,
)
from shared.errors import ErrorCode
from shared.jobs import Job, JobError, JobId, JobRecord, JobResult, JobStatus, WorkerId
from shared.queue.keys import BaseKeys
from shared.queue.scripts import Script
from shared.redis_client import one_round_trip, translate_errors

MOST_IN_ONE_CALL = 64
"""Leases that one reap takes back, and expired jobs that one claim ends: no call holds up the server."""

EXPIRED = encode_error(JobError(code=ErrorCode.JOB_EXPIRED, message="the job's time was over before its end"))
CRASHED = encode_error(
    JobError(code=ErrorCode.WORKER_FAULT, message="each worker that ran this job died; it is not run again")
)
OTHER_VERSION = JobError(
    code=ErrorCode.WORKER_FAULT, message="the worker is of another version than the router"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueSettings:
    """How a base's queue behaves; the same for all its users.

    Attributes:
        lease: seconds that a claim or a heartbeat holds a job.
        max_crashes: a job whose worker died this often fails instead of running again.
        max_attempts: claims a job gets when it fails for a reason that may pass.
        max_waiting: waiting jobs before enqueue refuses.
        record_ttl: seconds that the record of an ended job is kept.
        claim_memory: seconds that a worker's last claim is kept, to answer it again.
    """

    lease: float = 4.0
    max_crashes: int = 2
    max_attempts: int = 3
    max_waiting: int = 1000
    record_ttl: int = 600
    claim_memory: int = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The right to run a job, and to write about it. `fence` is what every write is checked against."""

    job: Job
    worker: WorkerId
    fence: int
    attempt: int


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
    """What an enqueue did."""

    ADDED = "added"
    KNOWN = "known"
    FULL = "full"


class JobQueue:
    """The queue of the base with tag `tag`.

    Every method raises `QueueUnavailable` when Redis cannot serve it now.
    """

    def __init__(self, redis: Redis, tag: str, settings: QueueSettings) -> None:
        self._redis = redis
        self._settings = settings
        self._keys = BaseKeys(tag)
        self._enqueue = Script(redis, "enqueue")
        self._claim = Script(redis, "claim")
        self._heartbeat = Script(redis, "heartbeat")
        self._complete = Script(redis, "complete")
        self._fail = Script(redis, "fail")
        self._release = Script(redis, "release")
        self._cancel = Script(redis, "cancel")
        self._reap = Script(redis, "reap")

    async def enqueue(self, job: Job) -> Enqueued:
        """Add a job. A job whose id is known already is left as it is, whatever its state (KNOWN).

        FULL leaves nothing behind. The record expires `record_ttl` after the job's timeout at the latest.
        """
        reply = await self._enqueue.run(
            self._keys.of_queue(),
            job.id,
            encode_job(job),
            job.timeout,
            self._settings.max_waiting,
            self._settings.record_ttl,
        )
        return Enqueued(reply.decode())

    async def claim(self, worker: WorkerId, token: str) -> Lease | None:
        """Take the next job, or None when none waits.

        `token` is chosen by the worker, fresh for each claim: the same token gets the same lease again, so
        that a lost reply orphans nothing. A job whose timeout has passed is failed as expired, and never
        handed out.
        """
        reply = await self._claim.run(
            [*self._keys.of_queue(), self._keys.worker(worker)],
            worker,
            token,
            self._settings.lease,
            self._settings.claim_memory,
            self._settings.record_ttl,
            EXPIRED,
            MOST_IN_ONE_CALL,
        )
        if reply is None:
            return None
        job_id, job, fence, attempt = reply
        try:
            return Lease(job=decode_job(job), worker=worker, fence=fence, attempt=attempt)
        except CodecError:
            await self._end(self._fail, job_id, worker, fence, encode_error(OTHER_VERSION), 0)
            return None

    async def heartbeat(self, worker: WorkerId, jobs: Sequence[Progress]) -> dict[JobId, LeaseState]:
        """Renew the leases of a worker's jobs in one call and record their progress."""
        arguments = [
            argument
            for progress in jobs
            for argument in (progress.lease.job.id, progress.lease.fence, progress.step, progress.total)
        ]
        states = await self._heartbeat.run(self._keys.of_queue(), worker, self._settings.lease, *arguments)
        return {
            progress.lease.job.id: LeaseState(state.decode())
            for progress, state in zip(jobs, states, strict=True)
        }

    async def complete(self, lease: Lease, result: JobResult) -> bool:
        """End the job with its result. False: the lease was lost, and nothing changed.

        A job that was cancelled meanwhile ends cancelled, without the result.
        """
        return await self._end(self._complete, lease.job.id, lease.worker, lease.fence, encode_result(result))

    async def fail(self, lease: Lease, error: JobError, *, retry: bool) -> bool:
        """End the job with an error; with `retry`, run it again while attempts are left.

        False: the lease was lost, and nothing changed. A job that was cancelled meanwhile ends cancelled.
        """
        attempts = self._settings.max_attempts if retry else 0
        return await self._end(
            self._fail, lease.job.id, lease.worker, lease.fence, encode_error(error), attempts
        )

    async def release(self, lease: Lease) -> bool:
        """Give the job back in its old place, the attempt not charged. False: the lease was lost.

        A job that was cancelled meanwhile ends cancelled.
        """
        return await self._end(self._release, lease.job.id, lease.worker, lease.fence)

    async def cancel(self, job: JobId) -> JobRecord | None:
        """Cancel: a waiting job at once, a running one through its worker; an ended one stays.

        Returns the record after the call, None if the job is unknown.
        """
        await self._cancel.run(self._keys.of_queue(), job, self._settings.record_ttl)
        (record,) = await self.records([job])
        return record

    async def reap(self) -> int:
        """Take back the jobs of leases that have run out; return how many. Any worker may call it.

        Back in their old place, until `max_crashes`: then they fail.
        """
        reaped: int = await self._reap.run(
            self._keys.of_queue(),
            MOST_IN_ONE_CALL,
            self._settings.max_crashes,
            self._settings.record_ttl,
            EXPIRED,
            CRASHED,
        )
        return reaped

    async def records(self, jobs: Sequence[JobId]) -> list[JobRecord | None]:
        """Return what Redis knows of these jobs, None for an unknown one; in one round trip.

        A record that another version wrote, and this one cannot read, is that of a failed job: it must not
        keep the others from being read.
        """
        with translate_errors():
            pipeline = one_round_trip(self._redis)
            for job in jobs:
                pipeline.hmget(self._keys.job(job), RECORD_FIELDS)
            rows = await pipeline.execute()
        return [_record(job, row) for job, row in zip(jobs, rows, strict=True)]

    async def depth(self) -> tuple[int, int]:
        """Return how many jobs wait and how many run."""
        with translate_errors():
            pipeline = one_round_trip(self._redis)
            waiting, running = await pipeline.zcard(self._keys.ready).zcard(self._keys.active).execute()
        return waiting, running

    async def oldest_wait(self) -> float:
        """Return the seconds that the oldest waiting job has waited; 0.0 when none waits."""
        with translate_errors():
            pipeline = one_round_trip(self._redis)
            pipeline.time().zrange(self._keys.age, 0, 0, withscores=True)
            (seconds, microseconds), oldest = await pipeline.execute()
        if not oldest:
            return 0.0
        ((_, enqueued_at),) = oldest
        return max(0.0, float(seconds + microseconds / 1_000_000 - enqueued_at))

    async def wait_for_work(self, blocking: Redis, longest: float) -> None:
        """Return when work may be there, or after `longest` seconds. Carries a hint, never a job.

        `blocking` is a connection pool of its own (`shared.redis_client`), because the call blocks it.
        """
        with translate_errors():
            await blocking.bzpopmin(self._keys.wake, timeout=longest)

    async def _end(
        self, script: Script, job_id: str, worker: WorkerId, fence: int, *arguments: bytes | int
    ) -> bool:
        reply = await script.run(
            self._keys.of_queue(), job_id, worker, fence, self._settings.record_ttl, *arguments
        )
        return bool(reply)


def _record(job: JobId, row: Sequence[bytes | None]) -> JobRecord | None:
    try:
        return decode_record(job, row)
    except CodecError:
        return JobRecord(
            id=job, status=JobStatus.FAILED, attempts=0, crashes=0, enqueued_at=0.0, error=OTHER_VERSION
        )
