"""The worker's main loop: claim, draw, settle; and how it ends."""

import asyncio
import logging
import secrets
from contextlib import suppress
from typing import Generic, TypeVar

from redis.asyncio import Redis

from shared.errors import QueueUnavailable
from shared.jobs import WorkerId
from shared.logs import log_context
from shared.queue.queue import Claim, JobQueue, Lease, LeaseState
from worker.backoff import backoff
from worker.engine.contract import Adapter, BaseDamaged, Interrupted
from worker.executor import Drawn, JobExecutor
from worker.failures import Failure, failure_of, is_unforeseen
from worker.metrics import Outcome, WorkerMetrics
from worker.running import RunningJob, RunningJobs
from worker.settlement import Settlement

A = TypeVar("A", bound=Adapter)

IDLE_WAIT = 2.0
"""Seconds. A lost wake-up hint costs no more than this."""
SHORTEST_WAIT = 0.01
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0

logger = logging.getLogger(__name__)


class Worker(Generic[A]):
    """Draws one job at a time, and settles the one before meanwhile. Lives on one event loop."""

    def __init__(
        self,
        *,
        worker_id: WorkerId,
        queue: JobQueue,
        blocking: Redis,
        executor: JobExecutor[A],
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
        self._settlement = settlement
        self._jobs = jobs
        self._metrics = metrics
        self._drain = drain
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._settling: asyncio.Task[None] | None = None

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
        if not working.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._drain):
                    await _first_of(working, self._hurrying)
        if not working.done():
            await self._let_go(working)
        else:
            await working

    async def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                claim = await self._claim()
                if not claim.leases:
                    await self._idle(IDLE_WAIT if claim.next_due is None else min(IDLE_WAIT, claim.next_due))
                for lease in claim.leases:
                    with log_context(job=lease.job.id):
                        await self._attempt(lease)
        finally:
            await self._settled()

    async def _claim(self) -> Claim:
        """Ask for a job until Redis answers; an empty claim when the worker is to stop."""
        # The same for every repetition, because the answer that was lost may have been a lease.
        token = secrets.token_hex(16)
        for pause in backoff(FIRST_PAUSE, LONGEST_PAUSE):
            try:
                return await self._queue.claim(self._id, token, hot=self._executor.hot())
            except QueueUnavailable as error:
                cause = str(error.__cause__)
                logger.warning("Redis does not answer", extra={"action": "claim_waits", "cause": cause})
                await self._rest(pause)
            if self._stopping.is_set():
                break
        return Claim()

    async def _idle(self, longest: float) -> None:
        """Return when work may be there, after `longest` seconds, or when the worker is to stop."""
        # Redis takes 0 for "for ever".
        waiting = asyncio.create_task(self._queue.wait_for_work(self._blocking, max(longest, SHORTEST_WAIT)))
        try:
            await _first_of(waiting, self._stopping)
            if waiting.done():
                await waiting
        except QueueUnavailable:
            await self._rest(FIRST_PAUSE)
        finally:
            waiting.cancel()  # it carries a hint, never a job

    async def _attempt(self, lease: Lease) -> None:
        running = RunningJob(lease)
        self._jobs.add(running)
        if self._stopping.is_set():
            await self._release(running)
            return
        logger.info("job claimed", extra={"action": "job_claimed", "attempt": lease.attempt})
        ending, error = await self._draw(running)
        await self._settled()
        self._settling = asyncio.create_task(self._settle(running, ending))
        if error is not None and is_unforeseen(error):
            await self._settled()
            if isinstance(error, BaseDamaged):
                raise error
            await self._executor.verify()

    async def _draw(self, running: RunningJob) -> tuple[Drawn | Failure, Exception | None]:
        try:
            return await self._executor.draw(running), None
        except Exception as error:
            level = logging.ERROR if is_unforeseen(error) else logging.INFO
            cause = None if isinstance(error, Interrupted) else error
            logger.log(level, "the attempt ended early", exc_info=cause, extra={"action": "attempt_failed"})
            return failure_of(error, running.lease.job), error

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

    async def _let_go(self, working: asyncio.Task[None]) -> None:
        """Give back what is not settled. What was settled in the same moment stays so: the fence decides."""
        held = self._jobs.all()
        for running in held:
            running.stop(LeaseState.LOST)  # ends the compute thread at its next step, and all retries
        doomed = [working] if self._settling is None else [working, self._settling]
        for unfinished in doomed:
            unfinished.cancel()
        await asyncio.wait(doomed)
        for running in held:
            await self._release(running)

    async def _release(self, running: RunningJob) -> None:
        try:
            released = await self._queue.release(running.lease)
        except QueueUnavailable:
            logger.warning("Redis does not answer; the lease runs out", extra={"action": "release_failed"})
            released = False
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


async def _first_of(work: asyncio.Task[None], event: asyncio.Event) -> None:
    """Return when `work` has ended or `event` is set; the one that is not done goes on."""
    happening = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({work, happening}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        happening.cancel()
