"""Waits for the ends of this router's jobs.

The job's record is the truth. A message on the queue's channel only hints that it is worth a look, so a
lost message costs one sweep: about once a second, and after every reconnect, the records of all waiting
jobs are read; each base's apart, because their queues may be on several nodes. The router is the write-ahead
log of what it waits for: a job that Redis has forgotten is enqueued again under its id, and so is one that
the queue cancelled because this router stood still for so long that it seemed to be gone. A job whose client
has left is cancelled, unless the client gave it an idempotency key: then it may come back for it. With each
sweep the router says that it is there, because jobs that only it waits for are not started once it is gone.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis

from router.queues import REFUSALS, Queues, refusal
from shared.errors import JobExpired, QueueUnavailable
from shared.jobs import Job, JobId, JobRecord, job_base_tag
from shared.queue.keys import DONE_PATTERN
from shared.queue.terms import Enqueued, IdempotencyKey
from shared.redis_client import translate_errors

logger = logging.getLogger(__name__)

LISTEN_SECONDS = 5.0
PAUSE_AFTER_FAILURE = 0.3
LAST_CANCELS_SECONDS = 1.0
CANCELS_AT_ONCE = 8
"""Of one base. When a proxy restarts, thousands of clients leave at once; their jobs' cancels leave room for
others' calls."""
BASES_KNOWN = 256


@dataclass(slots=True, eq=False)
class _Waiting:
    """A caller who waits. `followed` is the job whose end it gets: its own, or its key's earlier one."""

    job: Job
    idempotency: IdempotencyKey | None
    followed: JobId
    ended: "asyncio.Future[JobRecord]"
    admitted: bool = False


class _Base:
    """Those who wait for jobs of one base.

    Attributes:
        waiting: who waits, by the job whose end they get.
        hinted: jobs that may have ended.
        look: set when there is something to look at, or nobody left to look for.
        silent_since: when the base's queue began not to answer. Counted from a failure, not from the last
            success: that is long ago for a router that stood still, and a call which this cut short is no
            outage of Redis.
    """

    def __init__(self, tag: str, next_sweep: float) -> None:
        self.tag = tag
        self.waiting: dict[JobId, list[_Waiting]] = {}
        self.hinted: set[JobId] = set()
        self.look = asyncio.Event()
        self.next_sweep = next_sweep
        self.silent_since: float | None = None

    def join(self, waiting: _Waiting) -> None:
        """Have somebody wait for the job that he follows."""
        self.waiting.setdefault(waiting.followed, []).append(waiting)

    def leave(self, waiting: _Waiting) -> None:
        """Have him wait no more."""
        others = self.waiting[waiting.followed]
        others.remove(waiting)
        if not others:
            del self.waiting[waiting.followed]
        if not self.waiting:
            self.look.set()

    def still_waiting(self, job: JobId) -> list[_Waiting]:
        """Return who waits for the job and was told nothing yet."""
        return [waiting for waiting in self.waiting.get(job, ()) if not waiting.ended.done()]


class JobWaiter:
    """Waits for many jobs with one subscription, and a loop for each of their bases.

    An async context manager owns them.

    Args of the constructor, in seconds: `sweep_every` between looks at all records, `patience` that an
    outage of Redis may last before those who wait are told.
    """

    def __init__(
        self,
        queues: Queues,
        subscriptions: Redis,
        *,
        sweep_every: float = 1.0,
        patience: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queues = queues
        self._subscriptions = subscriptions
        self._sweep_every = sweep_every
        self._patience = patience
        self._clock = clock
        self._router = secrets.token_hex(8)
        self._bases: dict[str, _Base] = {}
        # Apart from the loops, so that they hold up nobody's answer.
        self._cancels: set[asyncio.Task[None]] = set()
        self._turns = lru_cache(BASES_KNOWN)(lambda _tag: asyncio.Semaphore(CANCELS_AT_ONCE))
        self._loops: set[asyncio.Task[None]] = set()
        # Beside cancelling: until Python 3.12, asyncio.wait_for inside redis-py may swallow a cancel.
        self._closing = False

    async def __aenter__(self) -> Self:
        self._begin(self._repeat(self._listen, lambda: True), "listen for ends of jobs")
        return self

    def _begin(self, loop: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(loop, name=name)
        self._loops.add(task)
        task.add_done_callback(self._loops.discard)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        loops = tuple(self._loops)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        if self._cancels:
            _, left = await asyncio.wait(self._cancels, timeout=LAST_CANCELS_SECONDS)
            if left:
                logger.warning("jobs left uncancelled", extra={"action": "abandon", "jobs": len(left)})
            for cancel in left:
                cancel.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def run(self, job: Job, workers: int, idempotency: IdempotencyKey | None = None) -> JobRecord:
        """Enqueue the job and return its record once it has ended.

        With an idempotency key that is known, the record is that of the key's job. If the caller is
        cancelled, so is a job without a key.

        Raises:
            QueueFull, AdapterRejected, NoPoolForBase, InvalidRequest: as `Queues.admit`.
            QueueUnavailable: Redis does not answer, or has not for longer than a wait survives.
            JobExpired: the job's time is over.
        """
        waiting = _Waiting(job, idempotency, job.id, asyncio.get_running_loop().create_future())
        base = self._base(job)
        base.join(waiting)
        try:
            async with asyncio.timeout(job.timeout):
                followed = await self._queues.admit(
                    job, workers, idempotency, router="" if idempotency else self._router
                )
                base.silent_since = None
                self._follow(base, waiting, followed)
                return await waiting.ended
        except TimeoutError as error:
            self.abandon(job, idempotency)
            raise JobExpired(f"no image within {job.timeout:g} s") from error
        except REFUSALS:
            raise
        except BaseException:  # whatever else it was, the job may be on the queue by now
            self.abandon(job, idempotency)
            raise
        finally:
            base.leave(waiting)

    def abandon(self, job: Job, idempotency: IdempotencyKey | None = None) -> None:
        """Have a job that nobody will ask for cancelled as soon as Redis answers; keep one that has a key.

        It need not have come to the queue. After its time it is left alone: nobody would run it anyway.
        """
        if idempotency is None:
            cancel = asyncio.create_task(self._cancel(job.id, self._clock() + job.timeout))
            self._cancels.add(cancel)
            cancel.add_done_callback(self._cancels.discard)

    def _base(self, job: Job) -> _Base:
        """Return those who wait on the job's base; there is a loop for them until the last one has left."""
        tag = job_base_tag(job.id)
        base = self._bases.get(tag)
        if base is None:
            # its first enqueue says that this router is there
            base = self._bases[tag] = _Base(tag, self._clock() + self._sweep_every)
            self._begin(self._look_after(base), f"look at records of jobs of {tag}")
        return base

    async def _look_after(self, base: _Base) -> None:
        await self._repeat(lambda: self._look_once(base), lambda: bool(base.waiting))
        del self._bases[base.tag]

    def _follow(self, base: _Base, waiting: _Waiting, job: JobId) -> None:
        waiting.admitted = True
        if job != waiting.followed:
            base.leave(waiting)
            waiting.followed = job
            base.join(waiting)
            self._hint(job)  # it may have ended long ago

    async def _listen(self) -> None:
        with translate_errors():
            async with self._subscriptions.pubsub(ignore_subscribe_messages=True) as subscription:
                await subscription.psubscribe(DONE_PATTERN)
                for base in self._bases.values():
                    base.next_sweep = 0.0  # whatever was published meanwhile was not heard
                    base.look.set()
                while not self._closing:
                    message = await subscription.get_message(timeout=LISTEN_SECONDS)
                    if message is not None:
                        self._hint(JobId(message["data"].decode("ascii", "replace")))

    def _hint(self, job: JobId) -> None:
        base = self._bases.get(job_base_tag(job))
        if base is not None and job in base.waiting:
            base.hinted.add(job)
            base.look.set()

    async def _look_once(self, base: _Base) -> None:
        """Wait for a hint or the next sweep, and act on it."""
        try:
            async with asyncio.timeout(max(0.0, base.next_sweep - self._clock())):
                await base.look.wait()
        except TimeoutError:
            pass
        base.look.clear()
        hinted = base.hinted & base.waiting.keys()
        base.hinted.clear()
        if self._clock() >= base.next_sweep:
            base.next_sweep = self._clock() + self._sweep_every
            hinted |= {job for job, callers in base.waiting.items() if callers[0].admitted}
            with suppress(QueueUnavailable):  # the next sweep tries again
                await self._queues.of_tag(base.tag).attend(self._router)
        if hinted:
            await self._read(base, tuple(hinted))

    async def _read(self, base: _Base, jobs: Sequence[JobId]) -> None:
        try:
            records = await self._queues.of_tag(base.tag).records(jobs)
            base.silent_since = None
            for job, record in zip(jobs, records, strict=True):
                await self._settle(base, job, record)
        except QueueUnavailable as error:
            if base.silent_since is None:
                base.silent_since = self._clock()
            if self._clock() - base.silent_since > self._patience:
                for waiting in (waiting for job in jobs for waiting in base.still_waiting(job)):
                    waiting.ended.set_exception(QueueUnavailable(error.message))

    async def _settle(self, base: _Base, job: JobId, record: JobRecord | None) -> None:
        for waiting in base.still_waiting(job):
            if record is None or record.unwanted:
                if waiting.admitted:
                    text = "job cancelled as unwanted" if record else "job forgotten by Redis"
                    logger.warning(text, extra={"action": "enqueue_again", "job": job})
                    await self._enqueue_again(base, waiting)
            elif record.status.is_end:
                waiting.ended.set_result(record)

    async def _enqueue_again(self, base: _Base, waiting: _Waiting) -> None:
        key = waiting.idempotency
        admission = await self._queues.of_tag(base.tag).enqueue(waiting.job, key, "" if key else self._router)
        if waiting.ended.done():
            return
        if admission.outcome in {Enqueued.ADDED, Enqueued.KNOWN}:
            self._follow(base, waiting, admission.job)
        elif admission.outcome not in {Enqueued.FULL, Enqueued.TENANT_FULL}:  # they have room in a while
            waiting.ended.set_exception(refusal(admission, waiting.job, workers=1))

    async def _cancel(self, job: JobId, until: float) -> None:
        """Cancel a job that was left; while Redis does not answer, again and again, but not for ever."""
        async with self._turns(job_base_tag(job)):
            while self._clock() < until:
                try:
                    await self._queues.of_job(job).cancel(job)
                except QueueUnavailable:
                    await asyncio.sleep(self._sweep_every)
                    continue
                except Exception:  # nobody waits for it; the log is all
                    logger.exception("job left uncancelled", extra={"action": "abandon", "job": job})
                return

    async def _repeat(self, step: Callable[[], Awaitable[None]], is_needed: Callable[[], bool]) -> None:
        """Repeat `step` while it is needed; a failure is logged, and must not be the loop's last thing."""
        while is_needed() and not self._closing:
            try:
                await step()
            except QueueUnavailable:
                logger.warning("queue unavailable", extra={"action": "wait"})
            except Exception:
                logger.exception("loop of the router failed", extra={"action": "wait"})
            else:
                continue
            await asyncio.sleep(PAUSE_AFTER_FAILURE)
