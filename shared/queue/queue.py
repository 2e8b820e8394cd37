"""The queue of one base. Its docstrings are the delivery semantics.

At-least-once execution, exactly-once answer: a job may be run by several workers in turn, but only the
holder of its current lease can end it, and it ends once. Every call may be repeated after a lost reply:
the second call finds what the first one did. All times are the server's. Which waiting job comes next is
said in `shared.queue.rule`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

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
from shared.jobs import Job, JobError, JobId, JobRecord, JobResult, JobStatus, Priority, WorkerId
from shared.queue.keys import BaseKeys
from shared.queue.rule import TURN
from shared.queue.scripts import Script
from shared.queue.terms import (
    Admission,
    Claim,
    Enqueued,
    IdempotencyKey,
    KnownJob,
    Lease,
    LeaseState,
    Mode,
    Overview,
    Progress,
    QueueSettings,
)
from shared.redis_client import one_round_trip, translate_errors

MOST_IN_ONE_CALL = 64
"""Leases that one reap takes back, expired jobs that one call ends: no call holds up the server."""
MOST_HINTS = 4
PRIORITIES = tuple(Priority)

EXPIRED = encode_error(JobError(code=ErrorCode.JOB_EXPIRED, message="the job's time was over before its end"))
CRASHED = encode_error(
    JobError(code=ErrorCode.WORKER_FAULT, message="each worker that ran this job died; it is not run again")
)
QUARANTINED = encode_error(
    JobError(
        code=ErrorCode.ADAPTER_REJECTED,
        message="worker after worker died with these adapters; they are not run for a while",
    )
)
OTHER_VERSION = JobError(
    code=ErrorCode.WORKER_FAULT, message="the worker is of another version than the router"
)


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
        self._revive = Script(redis, "revive")
        self._drop = Script(redis, "drop")
        self._mode = Script(redis, "mode")
        self._attend = Script(redis, "attend")
        self._overview = Script(redis, "overview")

    async def enqueue(
        self,
        job: Job,
        idempotency: IdempotencyKey | None = None,
        router: str = "",
        *,
        only_asks: bool = False,
    ) -> Admission:
        """Add a job. A job whose id is known already is left as it is, whatever its state (KNOWN).

        So is the job of an idempotency key that is known, unless it has failed: the answer names it. A
        refusal leaves nothing behind. A key is known for at least as long as its job's record: one that is
        claimed in its last moment has its time once more.

        But a job that was cancelled only because its router seemed to be gone (`JobRecord.unwanted`) waits
        again, in its old place and until its old deadline; if that has passed, it fails as expired.

        Args:
            job: what to run.
            idempotency: the client's promise, if it gave one.
            router: who alone wants the job, if that is so: it is not started for a router that is gone, that
                is, one that has not called `attend` for `router_ttl`.
            only_asks: return what the answer would be now, and add no job.
        """
        settings, same = self._settings, idempotency or IdempotencyKey(key="", request="")
        outcome, job_id, seconds = await self._enqueue.run(
            self._keys.of_queue(),
            job.id,
            encode_job(replace(job, sealed_token=None)),
            job.sealed_token or "",
            job.timeout,
            PRIORITIES.index(job.priority),
            job.tenant,
            job.weight,
            job.work,
            job.affinity,
            settings.max_adapter_crashes,
            same.key,
            same.request,
            2 * math.ceil(job.timeout) + settings.record_ttl,
            settings.max_waiting,
            settings.max_waiting_per_tenant,
            settings.record_ttl,
            EXPIRED,
            MOST_IN_ONE_CALL,
            router,
            settings.router_ttl,
            int(only_asks),
        )
        return Admission(
            outcome=Enqueued(outcome.decode()), job=JobId(job_id.decode()), seconds=float(seconds)
        )

    async def claim(self, worker: WorkerId, token: str, *, hot: Sequence[str] = (), count: int = 1) -> Claim:
        """Take up to `count` of the next jobs.

        A job whose timeout has passed is failed as expired, one whose adapters are in quarantine as rejected,
        and one whose router is gone is cancelled as unwanted; none of them is handed out.

        Args:
            worker: who asks.
            token: chosen by the worker, fresh for each claim: the same token gets the same leases again, so
                that a lost reply orphans nothing.
            hot: the affinities of the jobs whose adapters it holds, the active one first.
            count: most jobs to take.
        """
        settings = self._settings
        leases, hints, due = await self._claim.run(
            [*self._keys.of_queue(), self._keys.worker(worker)],
            worker,
            token,
            settings.lease,
            settings.claim_memory,
            settings.record_ttl,
            EXPIRED,
            MOST_IN_ONE_CALL,
            count,
            MOST_HINTS,
            settings.slack,
            settings.max_overtakes,
            settings.max_age,
            settings.max_adapter_crashes,
            QUARANTINED,
            TURN,
            *hot,
        )
        taken = [await self._lease(worker, lease) for lease in leases]
        return Claim(
            leases=tuple(lease for lease in taken if lease),
            hints=tuple(job for hint in hints if (job := _readable(hint))),
            next_due=float(due) if due else None,
        )

    async def _lease(self, worker: WorkerId, reply: Sequence[Any]) -> Lease | None:
        job_id, encoded, token, fence, attempt, crashes = reply
        job = _readable(encoded)
        if job is None:
            error = encode_error(OTHER_VERSION)
            await self._end(self._fail, job_id.decode(), worker, fence, error, 0, 0, 0, 0)
            return None
        job = replace(job, sealed_token=token.decode() or None)
        return Lease(job=job, worker=worker, fence=fence, attempt=attempt, crashes=crashes)

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
        timings = result.timings
        return await self._end(
            self._complete,
            lease.job.id,
            lease.worker,
            lease.fence,
            encode_result(result),
            timings.swap + timings.inference,
            result.steps * result.width * result.height,
        )

    async def fail(self, lease: Lease, error: JobError, *, retry: bool, delay: float = 0.0) -> bool:
        """End the job with an error; with `retry`, run it again in `delay` seconds while attempts are left.

        With none left it is given up: it ends as failed, and the operator may have it run again.
        False: the lease was lost, and nothing changed. A job that was cancelled meanwhile ends cancelled.
        """
        settings = self._settings
        return await self._end(
            self._fail,
            lease.job.id,
            lease.worker,
            lease.fence,
            encode_error(error),
            settings.max_attempts if retry else 0,
            delay,
            settings.dead_ttl,
            settings.max_dead,
        )

    async def release(self, lease: Lease) -> bool:
        """Give the job back in its old place, the attempt not charged. False: the lease was lost.

        A job that was cancelled meanwhile ends cancelled.
        """
        return await self._end(self._release, lease.job.id, lease.worker, lease.fence)

    async def cancel(self, job: JobId) -> JobRecord | None:
        """Cancel: a waiting job at once, a running one through its worker; an ended one stays.

        One that was cancelled as unwanted cannot be enqueued again after that.

        Returns the record after the call, None if the job is unknown.
        """
        await self._cancel.run(self._keys.of_queue(), job, self._settings.record_ttl)
        (record,) = await self.records([job])
        return record

    async def reap(self) -> int:
        """Take back the jobs of leases that have run out, and end those that waited beyond their time.

        Returns how many that were. Any worker or router may call it. Back in their old place, until
        `max_crashes`: then they are given up. Each also counts against its adapters: after
        `max_adapter_crashes` these are in quarantine, until a success or its end.
        """
        settings = self._settings
        reaped: int = await self._reap.run(
            self._keys.of_queue(),
            MOST_IN_ONE_CALL,
            settings.max_crashes,
            settings.record_ttl,
            EXPIRED,
            CRASHED,
            settings.dead_ttl,
            settings.max_dead,
            settings.quarantine,
        )
        return reaped

    async def attend(self, router: str) -> None:
        """Say that a router is there, and still wants the jobs that it enqueued as its own."""
        await self._attend.run(self._keys.of_queue(), router, self._settings.router_ttl)

    async def dead(self, most: int | None = None) -> list[JobId]:
        """Return the jobs that were given up, the latest first: all, or at most so many."""
        if most == 0:
            return []
        last = -1 if most is None else most - 1
        with translate_errors():
            found = cast("list[bytes]", await self._redis.zrange(self._keys.dead, 0, last, desc=True))
        return [JobId(job.decode()) for job in found]

    async def revive(self, job: JobId) -> bool:
        """Have a job that was given up run again, as if it came now. False: no such job was given up.

        Its caller's token is not kept: adapters that only the caller may read fail once more. An operator's
        wish, so that neither caps nor draining keep it out. After a lost reply the second call says False,
        for the job is no longer given up; so it does for `drop`.
        """
        return bool(await self._revive.run(self._keys.of_queue(), job))

    async def drop(self, job: JobId) -> bool:
        """Forget a job that was given up. False: no such job was."""
        return bool(await self._drop.run(self._keys.of_queue(), job))

    async def set_mode(self, mode: Mode) -> None:
        """Open, pause or drain the base."""
        await self._mode.run(self._keys.of_queue(), mode.value)

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

    async def find(self, job: JobId) -> KnownJob | None:
        """Return all that Redis knows of a job, None if that is nothing; in one round trip."""
        with translate_errors():
            pipeline = one_round_trip(self._redis)
            pipeline.time().hmget(self._keys.job(job), (*RECORD_FIELDS, "job"))
            pipeline.zscore(self._keys.dead, job)
            (seconds, microseconds), (*row, encoded), buried = await pipeline.execute()
        record = _record(job, row)
        if record is None:
            return None
        return KnownJob(
            record=record,
            job=_readable(encoded) if encoded else None,
            given_up=buried is not None,
            now=float(seconds + microseconds / 1_000_000),
        )

    async def overview(self) -> Overview:
        """Return how the queue stands."""
        mode, waiting, delayed, running, given_up, oldest, work, now = await self._overview.run(
            self._keys.of_queue(), self._settings.dead_ttl
        )
        return Overview(
            mode=Mode(mode.decode()) if mode else Mode.OPEN,
            waiting=waiting,
            delayed=delayed,
            running=running,
            given_up=given_up,
            oldest_wait=max(0.0, float(now) - float(oldest)) if oldest else 0.0,
            work=float(work),
            now=float(now),
        )

    async def depth(self) -> tuple[int, int]:
        """Return how many jobs wait, also for their next attempt, and how many run."""
        with translate_errors():
            pipeline = one_round_trip(self._redis)
            waiting, running = await pipeline.zcard(self._keys.deadlines).zcard(self._keys.active).execute()
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
        self, script: Script, job_id: str, worker: WorkerId, fence: int, *arguments: bytes | float
    ) -> bool:
        reply = await script.run(
            self._keys.of_queue(), job_id, worker, fence, self._settings.record_ttl, *arguments
        )
        return bool(reply)


def _readable(encoded: bytes) -> Job | None:
    """Return the job; None for one that another version wrote."""
    try:
        return decode_job(encoded)
    except CodecError:
        return None


def _record(job: JobId, row: Sequence[bytes | None]) -> JobRecord | None:
    try:
        return decode_record(job, row)
    except CodecError:
        return JobRecord(
            id=job, status=JobStatus.FAILED, attempts=0, crashes=0, enqueued_at=0.0, error=OTHER_VERSION
        )
