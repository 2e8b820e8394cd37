import asyncio
from dataclasses import replace

import pytest

from shared.errors import JobExpired
from shared.queue.terms import LeaseState
from tests.builders import a_job, a_lease
from worker.engine.contract import Interrupted
from worker.running import RunningJob, RunningJobs, within


async def test_progress_is_what_the_last_step_said() -> None:
    running = RunningJob(a_lease())
    running.on_step(3, 20)

    assert (running.progress.step, running.progress.total) == (3, 20)


async def test_a_stopped_job_is_interrupted_at_its_next_step() -> None:
    running = RunningJob(a_lease())
    running.on_step(1, 20)
    running.stop(LeaseState.CANCELLED)

    with pytest.raises(Interrupted):
        running.on_step(2, 20)


async def test_the_first_reason_to_stop_stays() -> None:
    running = RunningJob(a_lease())
    running.stop(LeaseState.CANCELLED)
    running.stop(LeaseState.LOST)

    assert running.state is LeaseState.CANCELLED


async def test_work_that_ends_gives_its_answer() -> None:
    async def work() -> str:
        return "done"

    assert await RunningJob(a_lease()).unless_stopped(work()) == "done"


async def test_work_that_fails_gives_its_error() -> None:
    async def work() -> None:
        raise KeyError("of the work")

    with pytest.raises(KeyError, match="of the work"):
        await RunningJob(a_lease()).unless_stopped(work())


async def test_a_stop_from_another_thread_ends_the_waiting_and_cancels_the_work() -> None:
    running = RunningJob(a_lease())
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.to_thread(running.stop, LeaseState.LOST)
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(Interrupted):
        await running.unless_stopped(work())
    await cancelled.wait()


async def test_a_job_is_overdue_once_its_timeout_has_passed() -> None:
    now = 100.0
    running = RunningJob(a_lease(job=a_job(timeout=30.0)), lambda: now)
    assert not running.is_overdue
    now = 131.0

    assert running.is_overdue


async def test_a_stop_reaches_the_job_it_names_alone() -> None:
    jobs = RunningJobs()
    one, other = RunningJob(a_lease()), RunningJob(a_lease())
    jobs.add(one)
    jobs.add(other)
    jobs.stop(one.lease.job.id, LeaseState.CANCELLED)
    jobs.stop(a_job().id, LeaseState.CANCELLED)

    assert (one.state, other.state) == (LeaseState.CANCELLED, LeaseState.HELD)


async def test_the_end_of_one_attempt_does_not_take_away_the_next_one_s_lease() -> None:
    jobs = RunningJobs()
    first = RunningJob(a_lease())
    second = RunningJob(replace(first.lease, fence=2, attempt=2))
    jobs.add(first)
    jobs.add(second)
    jobs.remove(first)

    assert jobs.all() == (second,)


async def test_what_remains_is_the_timeout_less_the_time_since_the_claim() -> None:
    now = 100.0
    running = RunningJob(a_lease(job=a_job(timeout=30.0)), lambda: now)
    now = 112.0

    assert running.remaining == 18.0


async def test_work_that_takes_longer_than_it_may_is_late_and_a_time_out_of_its_own_is_not() -> None:
    async def time_out() -> None:
        raise TimeoutError("of the work")

    late = JobExpired("late")
    with pytest.raises(JobExpired):
        await within(0.0, asyncio.Event().wait(), late)
    with pytest.raises(TimeoutError, match="of the work"):
        await within(3600.0, time_out(), late)
