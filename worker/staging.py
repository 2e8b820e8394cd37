"""Claimed jobs on their way to the compute thread: each waits for its own adapters, none for another's."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from worker.engine.contract import Adapter
from worker.executor import JobExecutor
from worker.running import RunningJob

A = TypeVar("A", bound=Adapter)

MOST_STAGED = 16
"""Jobs that may wait for their adapters here: each lease is one that no other worker can take."""

GRACE = 0.05
"""Seconds that adapters which are in RAM or on disk take to be there, before another job is looked for."""

MOST_FAR = 2
"""Jobs that may wait for the Hub without that grace: with more of them, it is the pace at which one worker
takes jobs from the others."""


@dataclass(slots=True, eq=False)
class StagedJob:
    """A job, and what brings its adapters.

    Attributes:
        fetching: ends with the seconds that took, or with None if the job is over.
        expected: keeps the adapters in RAM.
        is_far: whether what it needs has to come from the Hub, or from a store that does not answer now.
    """

    running: RunningJob
    fetching: asyncio.Task[float | None] = field(init=False)
    expected: ExitStack = field(default_factory=ExitStack)
    is_far: bool = False

    @property
    def is_due_alone(self) -> bool:
        """Whether it may be what killed a worker, and need not wait for the Hub."""
        return self.running.lease.is_suspect and not self.is_far

    @property
    def is_ready(self) -> bool:
        """Whether its adapters are there. One that is over stays here for a moment more."""
        fetching = self.fetching
        return fetching.done() and not fetching.cancelled() and fetching.result() is not None


class Staging(Generic[A]):
    """The claimed jobs that are not drawn yet, in the order of their claims. Lives on one event loop."""

    def __init__(self, executor: JobExecutor[A], on_error: Callable[[RunningJob, Exception], object]) -> None:
        """`on_error` is told when a job's adapters cannot be had; that job does not come out here."""
        self._executor = executor
        self._on_error = on_error
        self._jobs: list[StagedJob] = []
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many jobs are here."""
        return len(self._jobs)

    @property
    def takes_more(self) -> bool:
        """Whether more jobs may be claimed: there is room, and none is about to be drawn alone."""
        return len(self._jobs) < MOST_STAGED and not any(staged.is_due_alone for staged in self._jobs)

    @property
    def has_ready(self) -> bool:
        """Whether a job is ready to be drawn."""
        return any(staged.is_ready for staged in self._jobs)

    def add(self, running: RunningJob) -> None:
        """Begin to fetch the job's adapters."""
        staged = StagedJob(running)
        staged.fetching = asyncio.create_task(self._fetch(staged))
        staged.expected.enter_context(self._executor.expected(running.lease.job))
        self._jobs.append(staged)
        staged.fetching.add_done_callback(lambda _done: self._fetched(staged))

    def take(self) -> StagedJob | None:
        """Return the first job that is ready, which is no longer here; None when none is.

        While one is about to be drawn alone, no other is: it might be what kills the worker.
        """
        for staged in [each for each in self._jobs if each.is_due_alone] or self._jobs:
            if staged.is_ready:
                self._jobs.remove(staged)
                return staged
        self._changed.clear()
        return None

    async def changed(self) -> None:
        """Return when a job has become ready, is gone, or turned out to be far, since `take` gave none."""
        await self._changed.wait()

    async def clear(self) -> list[RunningJob]:
        """Stop all fetching, and return the jobs that were here."""
        jobs, self._jobs = self._jobs, []
        for staged in jobs:
            staged.fetching.cancel()
            staged.expected.close()
        if jobs:
            await asyncio.wait([staged.fetching for staged in jobs])
        return [staged.running for staged in jobs]

    async def _fetch(self, staged: StagedJob) -> float | None:
        try:
            return await self._executor.fetch(staged.running, lambda: self._absent(staged))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's
            self._on_error(staged.running, error)
            return None

    def _absent(self, staged: StagedJob) -> None:
        if staged.is_far:
            return
        held_up_others = staged.is_due_alone
        staged.is_far = True
        if held_up_others or sum(each.is_far for each in self._jobs) <= MOST_FAR:
            self._changed.set()

    def _fetched(self, staged: StagedJob) -> None:
        if staged in self._jobs and not staged.is_ready:
            self._jobs.remove(staged)
            staged.expected.close()
        self._changed.set()
