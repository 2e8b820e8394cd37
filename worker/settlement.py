"""The end of a job: encode and store its image, or record its failure, until Redis has answered."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from time import monotonic
from typing import TypeVar

from shared.errors import JobExpired, QueueUnavailable
from shared.jobs import Job, JobResult, Timings
from shared.queue.queue import JobQueue
from shared.queue.terms import LeaseState
from shared.results.store import ResultStore
from worker.backoff import backoff, retry_delay
from worker.engine.contract import Interrupted
from worker.executor import Drawn
from worker.failures import CANCELLED, Failure, failure_of
from worker.images import encode, note_of
from worker.metrics import Outcome
from worker.running import RunningJob, within

T = TypeVar("T")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
SHORTEST_CALL = 5.0
"""Seconds that a call gets although its job is overdue: more than the clients of Redis wait for a reply."""

logger = logging.getLogger(__name__)


class Settlement:
    """Settles jobs while the compute thread is at the next one already. Every write is fenced."""

    def __init__(
        self,
        *,
        queue: JobQueue,
        results: ResultStore,
        base_revision: str,
        threads: Executor,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`threads` encode images; `base_revision` is what results say of the base."""
        self._queue = queue
        self._results = results
        self._base_revision = base_revision
        self._threads = threads
        self._clock = clock

    async def settle(self, running: RunningJob, ending: Drawn | Failure) -> Outcome:
        """End the job, with its image or its error, and return what came of it.

        While Redis, or what keeps images, does not answer, the ending is kept and tried again, until the
        lease is known to be lost or the job's timeout has passed.
        """
        if running.state is LeaseState.CANCELLED:
            ending = CANCELLED
        if isinstance(ending, Drawn):
            try:
                return await self._succeed(running, ending)
            except Interrupted as interrupted:
                ending = failure_of(interrupted, running.lease.job)
            except Exception as error:
                logger.warning(
                    "the image could not be delivered", exc_info=error, extra={"action": "delivery_failed"}
                )
                ending = failure_of(error, running.lease.job)
        return await self._fail(running, ending)

    async def _succeed(self, running: RunningJob, drawn: Drawn) -> Outcome:
        lease = running.lease
        started = self._clock()
        data, digest = await asyncio.get_running_loop().run_in_executor(
            self._threads, _encoded, lease.job, drawn, self._base_revision
        )
        seconds = self._clock() - started
        name = await _until_answered(
            running,
            lambda: running.unless_stopped(self._results.put(lease, data)),
            unless=LeaseState.CANCELLED,
        )
        if running.state is LeaseState.LOST:
            return Outcome.LOST
        if name is None:
            # The queue's server may well answer, and the worker is alive: nobody shall take it for dead.
            raise _gave_up(running)
        result = self._result(
            lease.job,
            drawn,
            await _known(drawn.digests),
            blob=name,
            digest=digest,
            size=len(data),
            encode_seconds=seconds,
        )
        if not await _until_answered(running, partial(self._queue.complete, lease, result)):
            return Outcome.LOST
        # A cancel that came after the last step: the queue has ended the job cancelled.
        return Outcome.CANCELLED if running.state is LeaseState.CANCELLED else Outcome.SUCCEEDED

    async def _fail(self, running: RunningJob, failure: Failure) -> Outcome:
        delay = retry_delay(running.lease.attempt)
        fail = partial(self._queue.fail, running.lease, failure.error, retry=failure.retry, delay=delay)
        if not await _until_answered(running, fail):
            return Outcome.LOST
        if failure is CANCELLED:
            return Outcome.CANCELLED
        return Outcome.RETRIED if failure.retry else Outcome.FAILED

    def _result(
        self,
        job: Job,
        drawn: Drawn,
        adapter_digests: tuple[str, ...],
        *,
        blob: str,
        digest: str,
        size: int,
        encode_seconds: float,
    ) -> JobResult:
        made = drawn.generated
        return JobResult(
            blob=blob,
            media_type=job.params.image_format.media_type,
            digest=digest,
            size=size,
            base=job.base,
            base_revision=self._base_revision,
            adapters=job.adapters,
            seed=job.params.seed,
            steps=made.steps,
            guidance_scale=made.guidance_scale,
            scheduler=made.scheduler,
            width=made.width,
            height=made.height,
            adapter_digests=adapter_digests,
            strength=made.strength,
            warnings=drawn.warnings,
            timings=Timings(
                fetch=drawn.fetch, swap=drawn.swap, inference=drawn.inference, encode=encode_seconds
            ),
        )


def _encoded(job: Job, drawn: Drawn, base_revision: str) -> tuple[bytes, str]:
    data = encode(drawn.generated.image, job.params.image_format, note_of(job, base_revision))
    return data, hashlib.sha256(data).hexdigest()


async def _known(digests: Sequence[Future[str]]) -> tuple[str, ...]:
    """Return the digests, once they are known; other jobs of the same files may wait for them as well."""
    return tuple([await asyncio.shield(asyncio.wrap_future(each)) for each in digests])


def _gave_up(running: RunningJob) -> Exception:
    if running.state is LeaseState.CANCELLED:
        return Interrupted(running.state)
    return JobExpired("the image could not be stored in the job's time: what keeps images does not answer")


async def _until_answered(
    running: RunningJob, call: Callable[[], Awaitable[T]], unless: LeaseState | None = None
) -> T | None:
    """Return the answer of `call`, repeated while none comes; None when it does not matter any more.

    It does not with a lease that has come to the state `unless`.
    A job that is overdue gets one call, so that its record says how it ended.
    A lease that is lost after a call whose reply never came may be gone because the call succeeded: then one
    more call tells.
    """
    asked = False
    for pause in backoff(FIRST_PAUSE, LONGEST_PAUSE):
        is_lost = running.state is LeaseState.LOST
        if (running.is_overdue and asked) or (is_lost and not asked) or running.state is unless:
            break
        asked = True
        try:
            # Redis' clients have bounds of their own; a disk has none
            seconds = max(SHORTEST_CALL, running.remaining)
            return await within(seconds, call(), QueueUnavailable("no answer came in the job's time"))
        except QueueUnavailable:
            if is_lost:
                break
            logger.warning("no answer comes; the job's end is kept", extra={"action": "settle_waits"})
            await asyncio.sleep(pause)
    return None
