"""The jobs that this worker holds leases of, as the main loop, compute thread and heartbeat share them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import TypeVar

from PIL.Image import Image

from shared.jobs import JobId
from shared.queue.terms import Lease, LeaseState, Progress
from worker.engine.contract import Interrupted

T = TypeVar("T")


class RunningJob:
    """One leased job. Made on the main loop; `on_step` and `stop` may be called from any thread.

    Attributes:
        source: the picture that the job starts from, once it is fetched.
    """

    source: Image | None = None

    def __init__(self, lease: Lease, clock: Callable[[], float] = monotonic) -> None:
        self.lease = lease
        self._clock = clock
        self._claimed_at = clock()
        self._state = LeaseState.HELD
        self._steps = (0, 0)
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._nearly_drawn = asyncio.Event()

    @property
    def state(self) -> LeaseState:
        """What is known of the lease. Once it is not held, it never is again."""
        return self._state

    @property
    def progress(self) -> Progress:
        """What a heartbeat tells of this job."""
        done, total = self._steps
        return Progress(lease=self.lease, step=done, total=total)

    @property
    def remaining(self) -> float:
        """Seconds until the job's timeout has passed since the claim: then surely nobody waits for it."""
        return self.lease.job.timeout - (self._clock() - self._claimed_at)

    @property
    def is_overdue(self) -> bool:
        """Whether none of `remaining` is left."""
        return self.remaining < 0

    def on_step(self, done: int, total: int) -> None:
        """Note the progress.

        Raises:
            Interrupted: the job was stopped.
        """
        self._steps = (done, total)
        self.check()
        if done == max(1, total - 1):
            with suppress(RuntimeError):  # as in `stop`
                self._loop.call_soon_threadsafe(self._nearly_drawn.set)

    @property
    def is_nearly_drawn(self) -> bool:
        """Whether at most one denoising step is left."""
        return self._nearly_drawn.is_set()

    async def nearly_drawn(self) -> None:
        """Return when at most one denoising step is left."""
        await self._nearly_drawn.wait()

    def check(self) -> None:
        """Raise `Interrupted` if the job was stopped."""
        if self._state is not LeaseState.HELD:
            raise Interrupted(self._state)

    def stop(self, reason: LeaseState) -> None:
        """Stop the work at the next chance; `reason` is LOST or CANCELLED. The first reason stays."""
        if self._state is LeaseState.HELD:
            self._state = reason
            # The loop is closed when the process ends: then nobody is left to be told.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopped.set)

    async def unless_stopped(self, work: Awaitable[T]) -> T:
        """Return what `work` gives; when the job is stopped first, cancel the work.

        Raises:
            Interrupted: the job was stopped.
        """
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self.check()
            return await working
        finally:
            stopping.cancel()
            working.cancel()


class RunningJobs:
    """All jobs that this worker holds leases of. Safe across threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._jobs: dict[JobId, RunningJob] = {}

    def add(self, job: RunningJob) -> None:
        """Have the lease renewed from now on."""
        with self._lock:
            self._jobs[job.lease.job.id] = job

    def remove(self, job: RunningJob) -> None:
        """Let the lease go; nothing happens if it is gone already."""
        with self._lock:
            if self._jobs.get(job.lease.job.id) is job:
                del self._jobs[job.lease.job.id]

    def all(self) -> tuple[RunningJob, ...]:
        """Return the jobs as they are now."""
        with self._lock:
            return tuple(self._jobs.values())

    def stop(self, job: JobId, reason: LeaseState) -> None:
        """Stop the job if it is here."""
        with self._lock:
            found = self._jobs.get(job)
        if found:
            found.stop(reason)


async def within(seconds: float, work: Awaitable[T], late: Exception) -> T:
    """Return what `work` gives, or end it and raise `late`. A time-out of its own stays what it is."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise late from error
