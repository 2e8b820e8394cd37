"""The worker's main loop: claim, stage, draw, settle; and how it ends."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

from redis.asyncio import Redis

from shared.errors import QueueUnavailable, WorkerFault
from shared.jobs import WorkerId
from shared.logs import log_context
from shared.queue.queue import JobQueue
from shared.queue.terms import Claim, Lease, LeaseState
from worker.backoff import backoff
from worker.engine.contract import Adapter, BaseDamaged, Interrupted
from worker.executor import Drawn, JobExecutor
from worker.failures import Failure, failure_of, is_unforeseen
from worker.flights import Flights
from worker.metrics import Gap, Outcome, WorkerMetrics
from worker.prefetch import Prefetch
from worker.running import RunningJob, RunningJobs
from worker.settlement import Settlement
from worker.staging import GRACE, StagedJob, Staging

A = TypeVar("A", bound=Adapter)
T = TypeVar("T")

IDLE_WAIT = 2.0
"""Seconds. A lost wake-up hint costs no more than this."""
SHORTEST_WAIT = 0.01
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0

logger = logging.getLogger(__name__)


class Worker(Generic[A]):
    """Draws one job at a time; settles the one before and stages the next meanwhile. Lives on one event loop.

    A job is claimed when the compute thread is about to need it: when the current job has one step left, so
    that the claim costs no idle time, or when none that is claimed has its adapters yet, so that a slow
    download holds up its own job alone. Not earlier: a lease is a job that no other worker can take.

    A job that was held by a worker that died is drawn alone, with no other one here: if that kills this
    worker, too, it is known for what it is, and no other job is charged with it a second time.
    """

    def __init__(
        self,
        *,
        worker_id: WorkerId,
        queue: JobQueue,
        blocking: Redis,
        executor: JobExecutor[A],
        prefetch: Prefetch[A],
        settlement: Settlement,
        jobs: RunningJobs,
        metrics: WorkerMetrics,
        drain: float,
    ) -> None:
        """`blocking` waits for work; `drain` is how many seconds a job gets to end after `stop`."""
        self._id = worker_id
        self._queue = queue
        self._blocking = blocking
        self._executor = executor
        self._prefetch = prefetch
        self._settlement = settlement
        self._jobs = jobs
        self._metrics = metrics
        self._drain = drain
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._staging = Staging(executor, self._fail)
        self._settling: asyncio.Task[None] | None = None
        self._claiming: asyncio.Task[None] | None = None
        self._failing: set[asyncio.Task[None]] = set()
        self._releases = Flights[RunningJob, None]()

    def stop(self) -> None:
        """Claim no more; give the running job time to end, then release it. A second call releases it now."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            BaseDamaged: no later image can be trusted; the job's end is recorded.
        """
        working = asyncio.create_task(self._work())
        await _first_of(working, self._stopping)
        ending = asyncio.create_task(self._end(working))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain):
                await _first_of(ending, self._hurrying)
        if working.done():
            await ending
            await working
        else:
            await self._let_go(working)
            await ending

    async def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                staged = self._staging.take()
                if staged is not None:
                    with staged.expected:
                        await self._attempt(staged)
                    await self._check_base(idle=False)
                elif self._staging.takes_more:
                    await self._look_for_work()
                else:
                    self._executor.idle.wait_for(Gap.ADAPTERS)
                    await self._until(self._staging.changed())
        finally:
            await self._prefetch.close()
            await self._release_staged()
            await self._settled()
            await asyncio.gather(*self._failing)

    async def _end(self, working: asyncio.Task[None]) -> None:
        """Return when all that was claimed is given back or settled."""
        await self._release_staged()
        await asyncio.wait([working])

    async def _look_for_work(self) -> None:
        """Claim; return when there may be something to do."""
        claim = await _uncut(self._take())
        if claim.leases:
            self._executor.idle.wait_for(Gap.TURNOVER)
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await self._staging.changed()
        if not self._staging.has_ready:
            if claim.leases:
                self._executor.idle.turns_out(Gap.ADAPTERS)
            else:
                self._executor.idle.wait_for(Gap.ADAPTERS if len(self._staging) else Gap.WORK)
                await self._check_base(idle=True)
                await self._idle(IDLE_WAIT if claim.next_due is None else min(IDLE_WAIT, claim.next_due))

    async def _check_base(self, *, idle: bool) -> None:
        if self._executor.is_check_due(idle=idle):
            await self._executor.verify()

    async def _take(self) -> Claim:
        """Claim, and stage what that gives."""
        claim = await self._claim()
        for lease in claim.leases:
            with log_context(job=lease.job.id):
                await self._stage(lease)
        if not self._stopping.is_set():
            self._prefetch.follow(claim.hints)
        return claim

    async def _claim(self) -> Claim:
        """Ask for a job until Redis answers; an empty claim when the worker is to stop."""
        # The same for every repetition, because the answer that was lost may have been a lease.
        token = secrets.token_hex(16)
        claim = await self._answered(
            lambda: self._queue.claim(self._id, token, hot=self._executor.hot()), "claim_waits"
        )
        return claim or Claim()

    async def _answered(self, call: Callable[[], Awaitable[T]], action: str) -> T | None:
        """Return the answer of `call`, repeated until Redis gives one; None when the worker is to stop."""
        for pause in backoff(FIRST_PAUSE, LONGEST_PAUSE):
            is_last = self._stopping.is_set()
            try:
                return await call()
            except QueueUnavailable as error:
                cause = str(error.__cause__)
                logger.warning("Redis does not answer", extra={"action": action, "cause": cause})
            if is_last or self._hurrying.is_set():
                break
            await self._rest(pause)
        return None

    async def _idle(self, longest: float) -> None:
        """Return when work may be there, after `longest` seconds, or when a staged job or a stop needs it."""
        # Redis takes 0 for "for ever".
        waiting = asyncio.create_task(self._queue.wait_for_work(self._blocking, max(longest, SHORTEST_WAIT)))
        changing = asyncio.create_task(self._staging.changed())
        try:
            await self._until(asyncio.wait({waiting, changing}, return_when=asyncio.FIRST_COMPLETED))
            if waiting.done():
                await waiting
        except QueueUnavailable:
            await self._rest(FIRST_PAUSE)
        finally:
            waiting.cancel()  # it carries a hint, never a job
            changing.cancel()

    async def _until(self, work: Coroutine[Any, Any, object]) -> None:
        """Return when `work` has ended or the worker is to stop."""
        working = asyncio.create_task(work)
        try:
            await _first_of(working, self._stopping)
        finally:
            working.cancel()

    async def _stage(self, lease: Lease) -> None:
        running = RunningJob(lease)
        self._jobs.add(running)
        if self._stopping.is_set():
            await self._release(running)
            return
        logger.info("job claimed", extra={"action": "job_claimed", "attempt": lease.attempt})
        self._staging.add(running)

    async def _attempt(self, staged: StagedJob) -> None:
        running = staged.running
        # out of this job's log context: what it logs, and what is fetched ahead, is of others
        claiming = self._claiming = asyncio.create_task(self._claim_ahead(running))
        try:
            with log_context(job=running.lease.job.id):
                await self._draw_and_settle(staged)
        finally:
            if not running.is_nearly_drawn:
                claiming.cancel()
            # One that has begun is awaited: its reply may hold a lease.
            await asyncio.wait([claiming])

    async def _draw_and_settle(self, staged: StagedJob) -> None:
        """Draw a job; its end is being recorded then, or is, where the next one has to wait for that."""
        running = staged.running
        if running.lease.is_suspect:
            await self._settled()
            await self._release_staged()
            await asyncio.gather(*self._failing)
        ending, error = await self._draw(staged)
        await self._settled()
        self._settling = asyncio.create_task(self._settle(running, ending))
        if running.lease.is_suspect:
            await self._settled()
        if error is not None and is_unforeseen(error):
            await self._settled()
            if isinstance(error, BaseDamaged):
                raise error
            await self._executor.verify()

    async def _claim_ahead(self, running: RunningJob) -> None:
        """Have the next job here when this one ends, unless one is."""
        await running.nearly_drawn()
        is_wanted = not self._staging.has_ready and self._staging.takes_more
        if is_wanted and not running.lease.is_suspect and not self._stopping.is_set():
            await self._take()

    async def _draw(self, staged: StagedJob) -> tuple[Drawn | Failure, Exception | None]:
        running, seconds = staged.running, await staged.fetching
        try:
            return await self._executor.draw(running, seconds or 0.0), None
        except Exception as error:  # noqa: BLE001 - `_failure` logs it
            # its frames hold the drawing's memory, which a check of the base may need
            return self._failure(running, error), error.with_traceback(None)

    def _fail(self, running: RunningJob, error: Exception) -> None:
        """End a job whose adapters could not be had; no weight was touched."""
        failing = asyncio.create_task(self._settle(running, self._failure(running, error)))
        self._failing.add(failing)
        failing.add_done_callback(self._failing.discard)

    def _failure(self, running: RunningJob, error: Exception) -> Failure:
        foreseen = logging.WARNING if isinstance(error, WorkerFault) else logging.INFO
        level = logging.ERROR if is_unforeseen(error) else foreseen
        cause = None if isinstance(error, Interrupted) else error
        logger.log(level, "the attempt ended early", exc_info=cause, extra={"action": "attempt_failed"})
        return failure_of(error, running.lease.job)

    async def _settle(self, running: RunningJob, ending: Drawn | Failure) -> None:
        try:
            outcome = await self._settlement.settle(running, ending)
        except Exception:
            # Without heartbeats its lease runs out, and the job runs again.
            logger.exception("the job's end could not be recorded", extra={"action": "settle_failed"})
            outcome = Outcome.LOST
        self._finish(running, outcome)

    async def _settled(self) -> None:
        if self._settling is not None:
            await self._settling

    async def _release_staged(self) -> None:
        """Give back at once what is not being drawn: another worker has time for it."""
        await asyncio.gather(*map(self._release, await self._staging.clear()))

    async def _let_go(self, working: asyncio.Task[None]) -> None:
        """Give back what is not settled. What was settled in the same moment stays so: the fence decides."""
        for running in self._jobs.all():
            running.stop(LeaseState.LOST)  # ends the compute thread at its next step, and all retries
        doomed = {working, *self._failing} | ({self._settling} if self._settling else set())
        for unfinished in doomed:
            unfinished.cancel()
        await asyncio.wait(doomed | ({self._claiming} if self._claiming else set()))
        await asyncio.gather(*map(self._release, self._jobs.all()))

    async def _release(self, running: RunningJob) -> None:
        await self._releases.join(running, lambda: self._give_back(running))

    async def _give_back(self, running: RunningJob) -> None:
        with log_context(job=running.lease.job.id):
            # until then its lease is kept
            released = await self._answered(lambda: self._queue.release(running.lease), "release_waits")
            if released is None:
                logger.warning("the lease runs out", extra={"action": "release_failed"})
            self._finish(running, Outcome.RELEASED if released else Outcome.LOST)

    def _finish(self, running: RunningJob, outcome: Outcome) -> None:
        self._jobs.remove(running)
        self._metrics.finished(outcome)
        if outcome is Outcome.SUCCEEDED:
            self._metrics.images.inc()
        logger.info("job ended", extra={"action": "job_ended", "outcome": outcome})

    async def _rest(self, seconds: float) -> None:
        """Sleep, but not longer than until the worker is to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


async def _uncut(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` does; who is cancelled meanwhile waits for its end: its reply may hold a lease."""
    working = asyncio.create_task(work)
    try:
        return await asyncio.shield(working)
    finally:
        await asyncio.wait([working])


async def _first_of(work: asyncio.Task[Any], event: asyncio.Event) -> None:
    """Return when `work` has ended or `event` is set; the one that is not done goes on."""
    happening = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({work, happening}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        happening.cancel()
