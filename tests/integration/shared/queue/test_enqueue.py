import pytest

from shared.errors import ErrorCode
from shared.jobs import JobStatus
from shared.queue.terms import Enqueued, IdempotencyKey, QueueSettings
from tests.builders import a_job, a_result, an_error


async def test_a_new_job_waits(queue, record_of):
    job = a_job()
    assert (await queue.enqueue(job)).outcome is Enqueued.ADDED
    record = await record_of(job.id)
    assert record.status is JobStatus.QUEUED
    assert (record.attempts, record.crashes, record.started_at, record.progress) == (0, 0, None, None)
    assert await queue.depth() == (1, 0)


async def test_the_time_of_enqueue_is_the_servers(queue, record_of, redis):
    before, _ = await redis.time()
    job = a_job()
    await queue.enqueue(job)
    after, _ = await redis.time()
    assert before <= (await record_of(job.id)).enqueued_at <= after + 1


async def test_the_same_job_twice_waits_once(queue):
    job = a_job()
    await queue.enqueue(job)
    assert (await queue.enqueue(job)).outcome is Enqueued.KNOWN
    assert await queue.depth() == (1, 0)


async def test_a_running_job_is_left_running(queue, run_a_job):
    lease = await run_a_job()
    assert (await queue.enqueue(lease.job)).outcome is Enqueued.KNOWN
    assert await queue.depth() == (0, 1)


async def test_an_ended_job_stays_ended(queue, run_a_job, record_of):
    lease = await run_a_job()
    await queue.cancel(lease.job.id)
    await queue.release(lease)
    assert (await queue.enqueue(lease.job)).outcome is Enqueued.KNOWN
    assert (await record_of(lease.job.id)).status is JobStatus.CANCELLED
    assert await queue.depth() == (0, 0)


async def test_a_full_queue_refuses_and_keeps_nothing(a_queue, redis):
    queue = a_queue(max_waiting=2)
    await queue.enqueue(a_job())
    await queue.enqueue(a_job())
    before = await redis.keys()
    assert (await queue.enqueue(a_job())).outcome is Enqueued.FULL
    assert sorted(await redis.keys()) == sorted(before)
    assert await queue.depth() == (2, 0)


async def test_who_only_asks_is_told_what_would_come_of_it_and_changes_nothing(a_queue, redis):
    queue = a_queue(max_waiting=2)
    known = a_job()
    await queue.enqueue(known)
    before = {key: await redis.dump(key) for key in await redis.keys()}
    for job, outcome in ((a_job(), Enqueued.ADDED), (known, Enqueued.KNOWN)):
        assert (await queue.enqueue(job, only_asks=True)).outcome is outcome
    assert {key: await redis.dump(key) for key in await redis.keys()} == before
    await queue.enqueue(a_job())
    assert (await queue.enqueue(a_job(), only_asks=True)).outcome is Enqueued.FULL


async def test_a_full_queue_still_knows_its_jobs(a_queue):
    queue = a_queue(max_waiting=1)
    job = a_job()
    await queue.enqueue(job)
    assert (await queue.enqueue(job)).outcome is Enqueued.KNOWN


async def test_running_jobs_do_not_fill_the_queue(a_queue, claim):
    queue = a_queue(max_waiting=1)
    await queue.enqueue(a_job())
    await claim(queue=queue)
    assert (await queue.enqueue(a_job())).outcome is Enqueued.ADDED


async def test_a_job_that_no_worker_takes_ends_when_the_next_one_comes(queue, pass_timeout, record_of):
    late = a_job()
    await queue.enqueue(late)
    await pass_timeout(late)
    await queue.enqueue(a_job())
    assert (await record_of(late.id)).error.code is ErrorCode.JOB_EXPIRED
    assert await queue.depth() == (1, 0)


async def test_depth_and_wait_of_an_empty_queue_are_zero(queue):
    assert await queue.depth() == (0, 0)
    assert await queue.oldest_wait() == 0.0


async def test_the_oldest_wait_is_that_of_the_first_waiting_job(queue, redis, keys, claim):
    first, second = a_job(), a_job()
    await queue.enqueue(first)
    await queue.enqueue(second)
    seconds, _ = await redis.time()
    await redis.zadd(keys.age, {first.id: seconds - 100, second.id: seconds - 50})
    assert 100 <= await queue.oldest_wait() < 150
    await claim()
    assert 50 <= await queue.oldest_wait() < 100


A_KEY = IdempotencyKey(key="a", request="r")


async def test_a_key_stands_for_its_job_while_that_is_known(queue, redis, keys):
    job = a_job(timeout=30.0)
    await queue.enqueue(job, A_KEY)
    again = await queue.enqueue(a_job(), A_KEY)
    assert (again.outcome, again.job) == (Enqueued.KNOWN, job.id)
    other = await queue.enqueue(a_job(), IdempotencyKey(key="a", request="another"))
    assert other.outcome is Enqueued.CONFLICT
    longest = 2 * 30 + QueueSettings().record_ttl
    assert longest - 10 < await redis.ttl(keys.idempotency("a")) <= longest


@pytest.mark.parametrize("retry", [True, False], ids=["given up", "for good"])
async def test_after_a_failure_the_key_may_come_again(a_queue, claim, retry):
    queue = a_queue(max_attempts=1)
    await queue.enqueue(a_job(), A_KEY)
    await queue.fail(await claim(queue=queue), an_error(), retry=retry)
    second = a_job()
    again = await queue.enqueue(second, A_KEY)
    assert (again.outcome, again.job) == (Enqueued.ADDED, second.id)
    assert (await queue.enqueue(a_job(), A_KEY)).job == second.id


async def test_after_a_success_or_a_cancel_it_stands_for_what_came_of_it(queue, claim):
    await queue.enqueue(a_job(), A_KEY)
    lease = await claim()
    await queue.complete(lease, a_result())
    assert (await queue.enqueue(a_job(), A_KEY)).job == lease.job.id

    cancelled, other = a_job(), IdempotencyKey(key="b", request="r")
    await queue.enqueue(cancelled, other)
    await queue.cancel(cancelled.id)
    assert (await queue.enqueue(a_job(), other)).job == cancelled.id
