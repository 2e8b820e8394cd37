"""Waits for the ends of this router's jobs.

The job's record is the truth. A message on the queue's channel only hints that it is worth a look, so a
lost message costs one sweep: about once a second, and after every reconnect, the records of all waiting
jobs are read. The router is the write-ahead log of what it waits for: a job that Redis has forgotten is
enqueued again under its id, and so is one that the queue cancelled because this router stood still for so
long that it seemed to be gone. A job whose client has left is cancelled, unless the client gave it an
idempotency key: then it may come back for it. With each sweep the router says that it is there, because
jobs that only it waits for are not started once it is gone.
"""

import asyncio
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Self

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


class JobWaiter:
    """Waits for many jobs with one subscription and one loop. An async context manager owns both.

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
        self._waiting: dict[JobId, list[_Waiting]] = {}
        # Apart from the loops, so that they hold up nobody's answer.
        self._cancels: set[asyncio.Task[None]] = set()
        self._turns = lru_cache(BASES_KNOWN)(lambda _tag: asyncio.Semaphore(CANCELS_AT_ONCE))
        self._hinted: set[JobId] = set()
        self._look = asyncio.Event()
        self._next_sweep = 0.0
        # Counted from a failure, not from the last success: that is long ago for a router that stood still,
        # and a call which this cut short is no outage of Redis.
        self._silent_since: float | None = None
        self._loops: tuple[asyncio.Task[None], ...] = ()
        # Beside cancelling: until Python 3.12, asyncio.wait_for inside redis-py may swallow a cancel.
        self._closing = False

    async def __aenter__(self) -> Self:
        self._loops = (
            asyncio.create_task(self._repeat(self._listen), name="listen for ends of jobs"),
            asyncio.create_task(self._repeat(self._look_once), name="look at records of jobs"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
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
        self._waiting[job.id] = [waiting]
        try:
            async with asyncio.timeout(job.timeout):
                followed = await self._queues.admit(
                    job, workers, idempotency, router="" if idempotency else self._router
                )
                self._silent_since = None
                self._follow(waiting, followed)
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
            self._leave(waiting)

    def abandon(self, job: Job, idempotency: IdempotencyKey | None = None) -> None:
        """Have a job that nobody will ask for cancelled as soon as Redis answers; keep one that has a key.

        It need not have come to the queue. After its time it is left alone: nobody would run it anyway.
        """
        if idempotency is None:
            cancel = asyncio.create_task(self._cancel(job.id, self._clock() + job.timeout))
            self._cancels.add(cancel)
            cancel.add_done_callback(self._cancels.discard)

    def _follow(self, waiting: _Waiting, job: JobId) -> None:
        waiting.admitted = True
        if job != waiting.followed:
            self._leave(waiting)
            waiting.followed = job
            self._waiting.setdefault(job, []).append(waiting)
            self._hint(job)  # it may have ended long ago

    def _leave(self, waiting: _Waiting) -> None:
        others = self._waiting[waiting.followed]
        others.remove(waiting)
        if not others:
            del self._waiting[waiting.followed]

    async def _listen(self) -> None:
        with translate_errors():
            async with self._subscriptions.pubsub(ignore_subscribe_messages=True) as subscription:
                await subscription.psubscribe(DONE_PATTERN)
                self._next_sweep = 0.0  # whatever was published meanwhile was not heard
                self._look.set()
                while not self._closing:
                    message = await subscription.get_message(timeout=LISTEN_SECONDS)
                    if message is not None:
                        self._hint(JobId(message["data"].decode("ascii", "replace")))

    def _hint(self, job: JobId) -> None:
        if job in self._waiting:
            self._hinted.add(job)
            self._look.set()

    async def _look_once(self) -> None:
        """Wait for a hint or the next sweep, and act on it."""
        try:
            async with asyncio.timeout(max(0.0, self._next_sweep - self._clock())):
                await self._look.wait()
        except TimeoutError:
            pass
        self._look.clear()
        hinted = self._hinted & self._waiting.keys()
        self._hinted.clear()
        if self._clock() >= self._next_sweep:
            self._next_sweep = self._clock() + self._sweep_every
            hinted |= {job for job, callers in self._waiting.items() if callers[0].admitted}
            await self._attend()
        await self._read(hinted)

    async def _attend(self) -> None:
        tags = {job_base_tag(job) for job in self._waiting}
        await asyncio.gather(*(self._attend_base(tag) for tag in tags))

    async def _attend_base(self, tag: str) -> None:
        with suppress(QueueUnavailable):  # the next sweep tries again
            await self._queues.of_tag(tag).attend(self._router)

    async def _read(self, jobs: Iterable[JobId]) -> None:
        by_base: defaultdict[str, list[JobId]] = defaultdict(list)
        for job in jobs:
            by_base[job_base_tag(job)].append(job)
        await asyncio.gather(*(self._read_base(tag, jobs) for tag, jobs in by_base.items()))

    async def _read_base(self, tag: str, jobs: Sequence[JobId]) -> None:
        try:
            records = await self._queues.of_tag(tag).records(jobs)
            self._silent_since = None
            for job, record in zip(jobs, records, strict=True):
                await self._settle(job, record)
        except QueueUnavailable as error:
            if self._silent_since is None:
                self._silent_since = self._clock()
            if self._clock() - self._silent_since > self._patience:
                self._give_up(jobs, error)

    async def _settle(self, job: JobId, record: JobRecord | None) -> None:
        for waiting in self._still_waiting(job):
            if record is None or record.unwanted:
                if waiting.admitted:
                    text = "job cancelled as unwanted" if record else "job forgotten by Redis"
                    logger.warning(text, extra={"action": "enqueue_again", "job": job})
                    await self._enqueue_again(waiting)
            elif record.status.is_end:
                waiting.ended.set_result(record)

    async def _enqueue_again(self, waiting: _Waiting) -> None:
        key = waiting.idempotency
        admission = await self._queues.of_job(waiting.job.id).enqueue(
            waiting.job, key, "" if key else self._router
        )
        if waiting.ended.done():
            return
        if admission.outcome in {Enqueued.ADDED, Enqueued.KNOWN}:
            self._follow(waiting, admission.job)
        elif admission.outcome not in {Enqueued.FULL, Enqueued.TENANT_FULL}:  # they have room in a while
            waiting.ended.set_exception(refusal(admission, waiting.job, workers=1))

    def _still_waiting(self, job: JobId) -> list[_Waiting]:
        return [waiting for waiting in self._waiting.get(job, ()) if not waiting.ended.done()]

    def _give_up(self, jobs: Sequence[JobId], error: QueueUnavailable) -> None:
        for waiting in (waiting for job in jobs for waiting in self._still_waiting(job)):
            waiting.ended.set_exception(QueueUnavailable(error.message))

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

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat `step` until the end; a failure is logged, and must not be the last thing the loop does."""
        while not self._closing:
            try:
                await step()
            except QueueUnavailable:
                logger.warning("queue unavailable", extra={"action": "wait"})
            except Exception:
                logger.exception("loop of the router failed", extra={"action": "wait"})
            else:
                continue
            await asyncio.sleep(PAUSE_AFTER_FAILURE)
