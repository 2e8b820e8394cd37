"""Claimed jobs between their claim and the compute thread."""

import asyncio
from contextlib import contextmanager

import pytest

from tests.builders import a_job, a_lease
from worker.running import RunningJob
from worker.staging import MOST_STAGED, Staging


class Fetches:
    """Fetches when told to, with what it is told."""

    def __init__(self):
        self.ends = {}
        self.absent = {}
        self.kept = set()

    async def fetch(self, running, on_absent):
        self.absent[running.lease.job.id] = on_absent
        return await self.ends.setdefault(running.lease.job.id, asyncio.get_running_loop().create_future())

    @contextmanager
    def expected(self, job):
        self.kept.add(job.id)
        yield
        self.kept.remove(job.id)  # not in a `finally`: what is only forgotten, and collected, has not ended


@pytest.fixture
async def fetches():
    return Fetches()


@pytest.fixture
async def a_staged_job(fetches):
    """Stage a fresh job and return its id, once its fetch has begun."""

    async def stage(staging, **lease):
        job = a_job()
        staging.add(RunningJob(a_lease(job=job, **lease)))
        while job.id not in fetches.ends:  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)
        return job.id

    return stage


async def test_jobs_come_out_in_the_order_of_their_claims_as_far_as_they_are_ready(fetches, a_staged_job):
    staging = Staging(fetches, on_error=None)
    first, second, third = [await a_staged_job(staging) for _ in range(3)]
    assert staging.take() is None
    for job in (third, second):
        fetches.ends[job].set_result(0.1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert [staging.take().running.lease.job.id for _ in range(2)] == [second, third]
    assert staging.take() is None
    fetches.ends[first].set_result(0.0)  # at once is a time, too
    await staging.changed()
    assert staging.take().running.lease.job.id == first
    assert len(staging) == 0


async def test_a_job_whose_adapters_cannot_be_had_never_comes_out_not_even_in_that_moment(
    fetches, a_staged_job
):
    seen = []

    def on_error(running, error):
        # this runs before, and what it asks for after the fetch has ended and before anybody was told
        asyncio.get_running_loop().call_soon(lambda: seen.append((staging.has_ready, staging.take())))
        seen.append((running.lease.job.id, str(error)))

    staging = Staging(fetches, on_error)
    job = await a_staged_job(staging)
    fetches.ends[job].set_exception(RuntimeError("no such file"))
    await staging.changed()
    assert seen == [(job, "no such file"), (False, None)]
    assert len(staging) == 0


async def test_no_more_is_taken_beside_a_job_that_was_held_by_a_worker_that_died(fetches, a_staged_job):
    staging = Staging(fetches, on_error=None)
    await a_staged_job(staging)
    assert staging.takes_more
    suspect = await a_staged_job(staging, crashes=1)
    assert not staging.takes_more
    fetches.ends[suspect].set_result(0.1)
    await staging.changed()
    assert staging.take().running.lease.job.id == suspect
    assert staging.takes_more


async def test_no_other_is_drawn_before_it_unless_it_has_to_come_from_the_hub(fetches, a_staged_job):
    staging = Staging(fetches, on_error=None)
    other = await a_staged_job(staging)
    suspect = await a_staged_job(staging, crashes=1)
    fetches.ends[other].set_result(0.1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert staging.take() is None
    fetches.absent[suspect]()
    await staging.changed()
    assert staging.takes_more
    assert staging.take().running.lease.job.id == other


async def test_there_is_room_for_so_many_jobs(fetches, a_staged_job):
    staging = Staging(fetches, on_error=None)
    for _ in range(MOST_STAGED):
        assert staging.takes_more
        await a_staged_job(staging)
    assert not staging.takes_more


async def test_what_is_cleared_is_given_back_and_fetched_no_more(fetches, a_staged_job):
    staging = Staging(fetches, on_error=None)
    jobs = [await a_staged_job(staging) for _ in range(2)]
    assert [running.lease.job.id for running in await staging.clear()] == jobs
    assert all(fetches.ends[job].cancelled() for job in jobs)
    assert (len(staging), staging.has_ready) == (0, False)


async def test_adapters_are_kept_for_a_job_until_it_is_drawn_fails_or_is_given_back(fetches, a_staged_job):
    staging = Staging(fetches, on_error=lambda _running, _error: None)
    drawn, failed, given_back = [await a_staged_job(staging) for _ in range(3)]
    assert fetches.kept == {drawn, failed, given_back}
    fetches.ends[drawn].set_result(0.1)
    fetches.ends[failed].set_exception(RuntimeError("no such file"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert fetches.kept == {drawn, given_back}
    with staging.take().expected:
        assert fetches.kept == {drawn, given_back}
    assert fetches.kept == {given_back}
    await staging.clear()
    assert fetches.kept == set()
