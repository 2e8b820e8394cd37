"""Jobs of a base whose last worker has gone."""

import asyncio

import pytest

from router import leftovers
from router.leftovers import Leftovers
from router.metrics import Metrics
from router.queues import Queues
from shared.errors import QueueUnavailable
from shared.jobs import JobStatus, WorkerId
from shared.pools import PoolDirectory
from shared.queue.terms import QueueSettings
from shared.redis_client import command_client
from tests.builders import BASE, a_job, a_worker
from tests.integration.router.conftest import ADAPTER, eventually
from tests.steps import claim_one


class Stage:
    """A base that had a worker, and what a router does about its jobs."""

    def __init__(self, redis):
        self.pools = PoolDirectory(redis)
        self.queues = Queues(redis, QueueSettings(), Metrics(), results=None)
        self.queue = self.queues.of_base(BASE)
        self.leftovers = Leftovers(self.pools, self.queues)

    async def status_of(self, job):
        return (await self.queues.record(job.id)).status


@pytest.fixture
async def stage(redis):
    stage = Stage(redis)
    await stage.pools.announce(a_worker(), 60.0)
    return stage


@pytest.fixture
def pass_time(redis, keys):
    """Let the job's timeout pass, and its lease run out."""

    async def pass_time(job):
        await redis.hset(keys.job(job.id), "deadline", "1")
        await redis.zadd(keys.deadlines, {job.id: 1}, xx=True)
        await redis.zadd(keys.active, {job.id: 1}, xx=True)

    return pass_time


async def test_they_end_when_their_time_is_over(stage, pass_time, redis, keys):
    running, waiting, in_time = (a_job(sealed_token="sealed") for _ in range(3))
    for job in (running, waiting, in_time):
        await stage.queue.enqueue(job)
    assert (await claim_one(stage.queue, WorkerId("last"), "token")).job == running
    await stage.pools.withdraw(a_worker())
    for job in (running, waiting):
        await pass_time(job)

    assert await stage.leftovers.end_overdue() == 0  # it may be but an outage of Redis
    assert await stage.leftovers.end_overdue() == 2
    assert [await stage.status_of(job) for job in (running, waiting)] == [JobStatus.FAILED] * 2
    for job in (running, waiting):
        assert 0 < await redis.ttl(keys.job(job.id)) <= QueueSettings().record_ttl
        assert not await redis.hexists(keys.job(job.id), "token")
    assert await stage.status_of(in_time) is JobStatus.QUEUED


async def test_those_of_a_base_with_workers_are_theirs_to_end(stage, pass_time):
    job = a_job()
    await stage.queue.enqueue(job)
    await pass_time(job)
    assert [await stage.leftovers.end_overdue() for _ in range(3)] == [0, 0, 0]
    assert await stage.status_of(job) is JobStatus.QUEUED


async def test_a_base_that_comes_back_between_two_looks_is_left_alone(stage, pass_time):
    job = a_job()
    await stage.queue.enqueue(job)
    await stage.pools.withdraw(a_worker())
    await pass_time(job)
    assert await stage.leftovers.end_overdue() == 0
    await stage.pools.announce(a_worker(), 60.0)
    assert await stage.leftovers.end_overdue() == 0
    await stage.pools.withdraw(a_worker())
    assert await stage.leftovers.end_overdue() == 0
    assert await stage.status_of(job) is JobStatus.QUEUED


async def test_after_an_outage_of_redis_two_more_looks_are_taken(stage, pass_time, link):
    job = a_job()
    await stage.queue.enqueue(job)
    await stage.pools.withdraw(a_worker())
    await pass_time(job)
    async with command_client(link.url) as behind_a_link:
        router = Leftovers(PoolDirectory(behind_a_link), stage.queues)
        assert await router.end_overdue() == 0
        await link.refuse()
        with pytest.raises(QueueUnavailable):
            await router.end_overdue()
        await link.heal()
        assert await router.end_overdue() == 0
        assert await router.end_overdue() == 1


async def test_a_caller_who_asks_for_such_a_job_learns_its_end(
    http, start_router, stage, pass_time, monkeypatch
):
    monkeypatch.setattr(leftovers, "EVERY", 0.05)
    router = await start_router()
    later = {"Prefer": "respond-async"}
    async with http.post(f"{router}/models/{ADAPTER}", data="a cat", headers=later) as response:
        job = a_job(id=(await response.json())["id"])
    await stage.pools.withdraw(a_worker())
    await pass_time(job)

    async def ended():
        async with http.get(f"{router}/jobs/{job.id}") as response:
            view = await response.json()
        return (view["status"], (view["error"] or {}).get("code")) == ("failed", "job_expired")

    await eventually(ended)


async def test_the_loop_goes_on_after_a_failure_and_ends_with_its_context(stage, monkeypatch):
    looks = asyncio.Queue()

    async def fails(_self):
        looks.put_nowait(1)
        raise RuntimeError("a mistake")

    monkeypatch.setattr(Leftovers, "end_overdue", fails)
    monkeypatch.setattr(leftovers, "EVERY", 0.0)
    async with Leftovers(stage.pools, stage.queues) as running:
        async with asyncio.timeout(10):
            for _ in range(3):
                await looks.get()
    assert running._loop.done()
