"""One job up to its image: fetch its adapters and its picture, make the adapters active, draw."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, AsyncExitStack
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Generic, TypeVar

from PIL.Image import Image

from shared.config import Limits
from shared.errors import JobExpired, QueueUnavailable, ResultGone, WorkerFault
from shared.jobs import Job
from shared.refs import AdapterRef
from shared.results.store import SOURCE_GONE, ResultStore, source_name
from shared.sealing import Sealer, SealError
from worker.adapter_store import AdapterStore
from worker.backoff import backoff
from worker.engine.contract import Activation, Adapter, BaseDamaged, Engine, Generated, StepCallback
from worker.idle_time import IdleTime
from worker.metrics import WorkerMetrics
from worker.pictures import read_picture
from worker.pulse import Pulse
from worker.running import RunningJob, within

A = TypeVar("A", bound=Adapter)
T = TypeVar("T")

TOKEN_MAX_AGE = 24 * 3600.0
"""Seconds. Far above any job's timeout, which the queue enforces: clocks of two machines may differ."""

CHECK_AFTER_JOBS = 1000
CHECK_WHEN_IDLE_AFTER = 600.0
"""Jobs, and seconds, after which the base's weights are checked although nothing went wrong."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts to get a picture."""

LIMITS = Limits()

MOST_HOT = 16
"""Affinities that a claim may prefer: each costs the server a look."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """An image that is not encoded yet, the seconds that it took, and what its caller should know.

    The digests of its adapters may still be in the making.
    """

    generated: Generated
    digests: tuple[Future[str], ...]
    warnings: tuple[str, ...]
    fetch: float
    swap: float
    inference: float


class JobExecutor(Generic[A]):
    """Draws one job at a time. All that touches the base's weights happens on the one `compute` thread.

    Attributes:
        idle: what that thread waits for between two drawings, for the main loop to say.
    """

    def __init__(
        self,
        *,
        engine: Engine[A],
        store: AdapterStore[A],
        compute: Executor,
        sealer: Sealer | None,
        pulse: Pulse,
        metrics: WorkerMetrics,
        results: ResultStore,
        decoding: Executor,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`results` keep the pictures that jobs start from; the threads `decoding` read them."""
        self._engine = engine
        self._store = store
        self._compute = compute
        self._sealer = sealer
        self._pulse = pulse
        self._metrics = metrics
        self._results = results
        self._decoding = decoding
        self._clock = clock
        self.idle = IdleTime(clock)
        self._recent = OrderedDict[str, tuple[AdapterRef, ...]]()
        self._unchecked_jobs = 0
        self._checked_at = clock()

    def hot(self) -> tuple[str, ...]:
        """Return the affinities of jobs whose adapters are in RAM, the latest drawn first."""
        held = (affinity for affinity, refs in self._recent.items() if self._store.holds(refs))
        return tuple(reversed(tuple(held)))

    async def fetch(self, running: RunningJob, on_absent: Callable[[], object]) -> float:
        """Bring the job's adapters to RAM, or to the GPU, and its picture; return the seconds that this took.

        May run beside a drawing. `on_absent` is called for each adapter that has to come from the Hub, and
        while what keeps the picture does not answer.

        Raises:
            Interrupted: the job was stopped.
            JobExpired: its timeout passed before the adapters were there.
            Exception: the job's failure, for `worker.failures.failure_of`.
        """
        job = running.lease.job
        started = self._clock()
        if digest := job.params.source:
            running.source = await _in_time(running, self._source(job, digest, on_absent))
        await _in_time(running, self._adapters(job, on_absent))
        return self._clock() - started

    async def _adapters(self, job: Job, on_absent: Callable[[], object]) -> None:
        adapters = await self._store.fetch(job.adapters, self._token(job), on_absent=on_absent)
        await self._store.lift(job.adapters, adapters)

    async def _source(self, job: Job, digest: str, on_absent: Callable[[], object]) -> Image:
        """Return the picture that the job starts from, once what keeps it answers."""
        data = await self._kept(source_name(job.base, digest), on_absent)
        read = partial(read_picture, data, job.params, self._engine.info.size_multiple, LIMITS)
        return await asyncio.get_running_loop().run_in_executor(self._decoding, read)

    async def _kept(self, name: str, on_absent: Callable[[], object]) -> bytes:
        pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                return await self._results.get(name)
            except ResultGone as error:
                raise ResultGone(SOURCE_GONE) from error
            except QueueUnavailable as error:
                # it may be a server of its own, whose outage shall not cost the job its attempts
                on_absent()
                logger.warning(
                    "no answer comes; the picture is waited for",
                    extra={"action": "source_waits", "cause": str(error.__cause__)},
                )
                await asyncio.sleep(next(pauses))

    def expected(self, job: Job) -> AbstractContextManager[None]:
        """Keep the job's adapters in RAM until it is drawn, if there is room."""
        return self._store.expected(job.adapters)

    async def draw(self, running: RunningJob, fetch: float) -> Drawn:
        """Draw the job's image.

        Args:
            running: the job, its adapters fetched.
            fetch: the seconds that took.

        Raises:
            Interrupted: the job was stopped.
            JobExpired: its timeout passed before the adapters were there.
            BaseDamaged: no later image can be trusted.
            Exception: the job's failure, for `worker.failures.failure_of`.
        """
        job = running.lease.job
        async with AsyncExitStack() as stack:
            holding = self._store.hold(job.adapters, self._token(job))
            activations = await _in_time(running, stack.enter_async_context(holding))
            loop = asyncio.get_running_loop()
            # With the context, so that what the engine logs names the job.
            draw = partial(copy_context().run, self._draw, running, activations, fetch)
            self._note(job)
            drawn = await loop.run_in_executor(self._compute, draw)
        self._observe(drawn)
        return drawn

    def _note(self, job: Job) -> None:
        self._recent[job.affinity] = job.adapters
        self._recent.move_to_end(job.affinity)
        if len(self._recent) > MOST_HOT:
            self._recent.popitem(last=False)

    def is_check_due(self, *, idle: bool) -> bool:
        """Whether `verify` should be called, if only to be sure; sooner when nobody waits for it."""
        since = self._clock() - self._checked_at
        rested = idle and since >= CHECK_WHEN_IDLE_AFTER and self._unchecked_jobs > 0
        return rested or self._unchecked_jobs >= CHECK_AFTER_JOBS

    async def verify(self) -> None:
        """Check the base, with nothing active.

        Raises:
            BaseDamaged: it is not what it was, or cannot be checked.
        """
        await asyncio.get_running_loop().run_in_executor(self._compute, self._verify)

    def _draw(self, running: RunningJob, activations: Sequence[Activation[A]], fetch: float) -> Drawn:
        running.check()
        self._pulse.beat()
        self._unchecked_jobs += 1
        try:
            started = self._clock()
            for reason, seconds in self.idle.end().items():
                self._metrics.waited(reason, seconds)
            self._engine.activate(activations)
            swapped = self._clock()
            generated = self._engine.generate(
                running.lease.job.params, self._watched(running), running.source
            )
            done = self._clock()
        finally:
            self.idle.begin()
            self._pulse.rest()
        return Drawn(
            generated=generated,
            digests=tuple(each.adapter.digest for each in activations),
            warnings=_warnings(activations),
            fetch=fetch,
            swap=swapped - started,
            inference=done - swapped,
        )

    def _verify(self) -> None:
        self._pulse.beat()
        self._unchecked_jobs, self._checked_at = 0, self._clock()
        try:
            with self.idle.other_work():
                self._engine.activate(())
                self._engine.verify()
        except BaseDamaged:
            raise
        except Exception as error:
            raise BaseDamaged("the base could not be checked") from error
        finally:
            self._pulse.rest()

    def _watched(self, running: RunningJob) -> StepCallback:
        """Return a step callback that feels the pulse, measures, and stops a job that was stopped."""
        last = self._clock()

        def on_step(done: int, total: int) -> None:
            nonlocal last
            self._pulse.beat()
            now = self._clock()
            if done > 1:  # the first also holds what comes before: text encoding, latents
                self._metrics.step.observe(now - last)
            last = now
            running.on_step(done, total)

        return on_step

    def _token(self, job: Job) -> str | None:
        if job.sealed_token is None:
            return None
        if self._sealer is None:
            raise WorkerFault("this worker has no WARMBASE_SECRET and cannot read the caller's Hub token")
        try:
            return self._sealer.open(job.sealed_token, TOKEN_MAX_AGE)
        except SealError as error:
            raise WorkerFault(
                "the worker cannot read the caller's Hub token: is WARMBASE_SECRET the same everywhere?"
            ) from error

    def _observe(self, drawn: Drawn) -> None:
        self._metrics.fetch.observe(drawn.fetch)
        self._metrics.swap.observe(drawn.swap)
        self._metrics.inference.observe(drawn.inference)


def _warnings(activations: Sequence[Activation[A]]) -> tuple[str, ...]:
    return tuple(f"{each.ref.repo}: {warning}" for each in activations for warning in each.adapter.warnings)


async def _in_time(running: RunningJob, fetching: Awaitable[T]) -> T:
    """Return what `fetching` gives, unless the job is stopped or its timeout passes first."""
    late = JobExpired("the job's timeout passed while what it needs was fetched")
    return await within(running.remaining, running.unless_stopped(fetching), late)
