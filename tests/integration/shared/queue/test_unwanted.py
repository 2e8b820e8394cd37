"""A job whose router seemed to be gone when its turn came, and was not: it only stood still."""

import pytest

from shared.errors import ErrorCode
from shared.jobs import JobStatus
from shared.queue.terms import Enqueued, Mode
from tests.builders import WORKER, a_job
from tests.steps import claim_one

ROUTER = "router-1"


@pytest.fixture
def seem_gone(queue, redis, keys):
    """Enqueue a job for a router that says nothing more, and let its turn come."""

    async def seem_gone(**changes):
        job = a_job(**changes)
        await queue.enqueue(job, router=ROUTER)
        await redis.zadd(keys.routers, {ROUTER: 1})
        assert await claim_one(queue, WORKER, f"for nobody {job.id}") is None
        return job

    return seem_gone


async def test_the_record_tells_it_from_one_that_somebody_cancelled(queue, seem_gone, record_of):
    unwanted, cancelled = await seem_gone(), a_job()
    await queue.enqueue(cancelled)
    await queue.cancel(cancelled.id)

    for job, is_unwanted in ((unwanted, True), (cancelled, False)):
        record = await record_of(job.id)
        assert (record.status, record.unwanted) == (JobStatus.CANCELLED, is_unwanted)


async def test_enqueued_again_it_waits_again_as_it_did(queue, seem_gone, record_of, redis, keys):
    job = await seem_gone(sealed_token="sealed")
    before = await redis.hgetall(keys.job(job.id))

    assert (await queue.enqueue(job, router=ROUTER)).outcome is Enqueued.ADDED
    assert (await queue.enqueue(job, router=ROUTER)).outcome is Enqueued.KNOWN
    after = await redis.hgetall(keys.job(job.id))
    assert {name: after[name] for name in (b"place", b"deadline", b"enqueued_at")} == {
        name: before[name] for name in (b"place", b"deadline", b"enqueued_at")
    }
    record = await record_of(job.id)
    assert (record.status, record.unwanted, record.finished_at) == (JobStatus.QUEUED, False, None)
    assert await redis.ttl(keys.job(job.id)) == -1
    assert (await claim_one(queue, WORKER, "again")).job == job


async def test_who_only_asks_is_told_that_it_would_wait_again(queue, seem_gone, record_of):
    job = await seem_gone()
    assert (await queue.enqueue(job, only_asks=True)).outcome is Enqueued.ADDED
    assert (await record_of(job.id)).unwanted


async def test_its_tenant_is_not_charged_twice(queue, seem_gone, redis, keys):
    job = await seem_gone()
    before = await redis.zrange(keys.tags, 0, -1, withscores=True)
    await queue.enqueue(job, router=ROUTER)
    assert await redis.zrange(keys.tags, 0, -1, withscores=True) == before


async def test_after_its_deadline_it_has_expired_and_does_not_run(queue, seem_gone, record_of, redis, keys):
    job = await seem_gone()
    await redis.hset(keys.job(job.id), "deadline", "1")

    assert (await queue.enqueue(job, router=ROUTER)).outcome is Enqueued.KNOWN
    record = await record_of(job.id)
    assert (record.status, record.error.code) == (JobStatus.FAILED, ErrorCode.JOB_EXPIRED)
    assert not record.unwanted
    assert await redis.ttl(keys.job(job.id)) > 0
    assert await queue.depth() == (0, 0)


async def test_the_end_that_it_has_then_is_announced(queue, seem_gone, listen, redis, keys):
    job = await seem_gone()
    await redis.hset(keys.job(job.id), "deadline", "1")
    async with listen(keys.done) as next_hint:
        await queue.enqueue(job, router=ROUTER)
        assert await next_hint() == job.id


async def test_who_cancels_it_meanwhile_keeps_it_from_coming_back(queue, seem_gone, record_of):
    job = await seem_gone()
    assert not (await queue.cancel(job.id)).unwanted
    assert (await queue.enqueue(job, router=ROUTER)).outcome is Enqueued.KNOWN
    assert (await record_of(job.id)).status is JobStatus.CANCELLED
    assert await queue.depth() == (0, 0)


async def test_a_base_that_is_drained_draws_it_like_all_that_came_before(queue, seem_gone):
    job = await seem_gone()
    await queue.set_mode(Mode.DRAINING)
    assert (await queue.enqueue(a_job(), router=ROUTER)).outcome is Enqueued.CLOSED
    assert (await queue.enqueue(job, router=ROUTER)).outcome is Enqueued.ADDED
    assert (await claim_one(queue, WORKER, "again")).job == job


async def test_a_full_queue_keeps_it_out_for_now(queue, a_queue, seem_gone, record_of):
    job = await seem_gone()
    await queue.enqueue(a_job())
    assert (await a_queue(max_waiting=1).enqueue(job, router=ROUTER)).outcome is Enqueued.FULL
    assert (await record_of(job.id)).unwanted
    assert (await queue.enqueue(job, router=ROUTER)).outcome is Enqueued.ADDED


async def test_it_may_seem_unwanted_more_than_once(queue, seem_gone, record_of, redis, keys):
    job = await seem_gone()
    await queue.enqueue(job, router=ROUTER)
    await redis.zadd(keys.routers, {ROUTER: 1})
    assert await claim_one(queue, WORKER, "for nobody again") is None
    assert (await record_of(job.id)).unwanted
    await queue.enqueue(job, router=ROUTER)
    assert (await claim_one(queue, WORKER, "again")).job == job
