"""The marker that tells idle workers of work: a hint, never a job."""

import asyncio
import random

import pytest

from shared.jobs import WorkerId
from shared.redis_client import CONNECTIONS, blocking_client
from tests.builders import WORKER, a_job, a_result, an_error
from tests.steps import claim_one

FOR_EVER = 120.0


@pytest.fixture
async def patient(redis_url):
    """A client whose waits end by a hint or not within any test."""
    client = blocking_client(redis_url, FOR_EVER)
    yield client
    await client.aclose()


async def test_waiting_ends_when_nothing_comes(queue, blocking):
    await queue.wait_for_work(blocking, 0.01)


async def test_work_that_is_there_already_ends_the_wait(queue, patient):
    await queue.enqueue(a_job())
    async with asyncio.timeout(30):
        await queue.wait_for_work(patient, FOR_EVER)


async def test_work_that_comes_ends_the_wait(queue, patient):
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(queue.wait_for_work(patient, FOR_EVER))
        await asyncio.sleep(0.05)
        await queue.enqueue(a_job())


async def test_five_idle_workers_and_one_hint_take_five_jobs(queue, patient):
    jobs = {a_job() for _ in range(5)}
    for job in jobs:
        await queue.enqueue(job)

    async def work(worker):
        await queue.wait_for_work(patient, FOR_EVER)
        return (await claim_one(queue, worker, "token")).job

    async with asyncio.timeout(30):
        assert set(await asyncio.gather(*(work(WorkerId(f"worker-{i}")) for i in range(5)))) == jobs


async def test_no_hint_is_left_when_no_job_waits(queue, claim, redis, keys):
    await queue.enqueue(a_job())
    await queue.enqueue(a_job())
    await claim()
    assert await redis.exists(keys.wake)
    await claim()
    assert not await redis.exists(keys.wake)


async def test_a_cancelled_job_takes_its_hint_along(queue, redis, keys):
    job = a_job()
    await queue.enqueue(job)
    await queue.cancel(job.id)
    assert not await redis.exists(keys.wake)


async def test_a_claim_that_finds_nothing_clears_the_hint(queue, redis, keys, pass_timeout):
    job = a_job()
    await queue.enqueue(job)
    await pass_timeout(job)
    assert await claim_one(queue, WORKER, "token") is None
    assert not await redis.exists(keys.wake)


@pytest.mark.parametrize(
    "give_back",
    [
        lambda queue, lease: queue.release(lease),
        lambda queue, lease: queue.fail(lease, an_error(), retry=True),
        lambda queue, _: queue.reap(),
    ],
    ids=["release", "retry", "reap"],
)
async def test_a_job_that_is_given_back_wakes_a_worker(queue, run_a_job, run_out, redis, keys, give_back):
    lease = await run_a_job()
    await run_out(lease)
    assert not await redis.exists(keys.wake)
    await give_back(queue, lease)
    assert await redis.exists(keys.wake)


async def test_an_end_wakes_nobody(queue, run_a_job, redis, keys):
    await queue.complete(await run_a_job(), a_result())
    assert not await redis.exists(keys.wake)


async def test_waits_that_are_cancelled_lose_no_job(queue, blocking):
    jobs = {a_job() for _ in range(20)}
    for job in jobs:
        waiting = asyncio.create_task(queue.wait_for_work(blocking, 1.0))
        await queue.enqueue(job)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    taken = {(await claim_one(queue, WORKER, f"token-{i}")).job for i in range(len(jobs))}
    assert taken == jobs


async def test_ten_thousand_waits_that_are_cancelled_anywhere_lose_no_job_and_no_connection(
    queue, redis, blocking
):
    chance = random.Random(0)  # noqa: S311 - the same moments in every run
    jobs = set()
    for _ in range(200):
        # short, because under Python 3.11 a command that is being sent may swallow the cancel
        waits = [asyncio.create_task(queue.wait_for_work(blocking, 0.05)) for _ in range(50)]
        if chance.random() < 0.5:
            job = a_job(timeout=3600.0)
            await queue.enqueue(job)
            jobs.add(job)
        # while they connect, while they ask, while they wait
        await asyncio.sleep(chance.choice([0, 0.001, 0.002, 0.003, 0.005, 0.02]))
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    assert {(await claim_one(queue, WORKER, f"token-{job.id}")).job for job in jobs} == jobs
    await queue.wait_for_work(blocking, 0.01)  # the pool still gives connections
    assert blocking.connection_pool._in_use_connections == set()
    assert len(await redis.client_list()) <= CONNECTIONS + 3
