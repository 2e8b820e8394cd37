import asyncio

from shared.errors import ErrorCode
from shared.jobs import JobStatus, WorkerId
from tests.builders import a_job, a_result


async def test_a_lease_that_has_not_run_out_is_left_alone(queue, run_a_job):
    await run_a_job()
    assert await queue.reap() == 0
    assert await queue.depth() == (0, 1)


async def test_the_job_of_a_dead_worker_runs_elsewhere_and_ends_once(
    queue, run_a_job, claim, run_out, record_of
):
    first = await run_a_job()
    await run_out(first)
    assert await queue.reap() == 1
    second = await claim(worker=WorkerId("worker-2"))
    assert (second.job, second.attempt) == (first.job, 2)
    assert await queue.complete(second, a_result())
    record = await record_of(first.job.id)
    assert (record.status, record.attempts, record.crashes) == (JobStatus.SUCCEEDED, 2, 1)


async def test_a_lease_runs_out_by_itself(a_queue, claim):
    queue = a_queue(lease=0.001)
    await queue.enqueue(a_job())
    await claim(queue=queue)
    await asyncio.sleep(0.05)
    assert await queue.reap() == 1
    assert await queue.depth() == (1, 0)


async def test_a_completed_job_is_not_run_again(queue, run_a_job, record_of):
    lease = await run_a_job()
    await queue.complete(lease, a_result())
    assert await queue.reap() == 0
    assert (await record_of(lease.job.id)).status is JobStatus.SUCCEEDED


async def test_two_reapers_take_a_job_back_once(queue, run_a_job, run_out, record_of):
    lease = await run_a_job()
    await run_out(lease)
    assert sorted(await asyncio.gather(queue.reap(), queue.reap())) == [0, 1]
    assert (await record_of(lease.job.id)).crashes == 1
    assert await queue.depth() == (1, 0)


async def test_a_reaped_job_keeps_its_place(queue, claim, run_out):
    jobs = [a_job() for _ in range(3)]
    for job in jobs:
        await queue.enqueue(job)
    await run_out(await claim())
    await queue.reap()
    assert [(await claim()).job for _ in jobs] == jobs


async def test_a_job_that_kills_its_workers_fails_at_the_limit(
    a_queue, claim, run_out, record_of, listen, keys
):
    queue = a_queue(max_crashes=2)
    job = a_job()
    await queue.enqueue(job)
    await run_out(await claim(queue=queue))
    await queue.reap()
    await run_out(await claim(queue=queue))
    async with listen(keys.done) as next_hint:
        assert await queue.reap() == 1
        assert await next_hint() == job.id
    record = await record_of(job.id)
    assert (record.status, record.crashes) == (JobStatus.FAILED, 2)
    assert record.error.code is ErrorCode.WORKER_FAULT
    assert await queue.depth() == (0, 0)


async def test_the_next_worker_is_told_that_the_last_one_died(queue, claim, run_out):
    await queue.enqueue(a_job())
    first = await claim()
    assert not first.is_suspect
    await run_out(first)
    await queue.reap()
    second = await claim()
    assert (second.attempt, second.crashes, second.is_suspect) == (2, 1, True)


async def test_other_jobs_outlive_it(a_queue, claim, run_out):
    queue = a_queue(max_crashes=1)
    poison, good = a_job(), a_job()
    await queue.enqueue(poison)
    await queue.enqueue(good)
    await run_out(await claim(queue=queue))
    await queue.reap()
    assert (await claim(queue=queue)).job == good


async def test_a_cancelled_job_of_a_dead_worker_ends_cancelled(queue, run_a_job, run_out, record_of):
    lease = await run_a_job()
    await queue.cancel(lease.job.id)
    await run_out(lease)
    await queue.reap()
    assert (await record_of(lease.job.id)).status is JobStatus.CANCELLED
    assert await queue.depth() == (0, 0)


async def test_a_job_whose_timeout_has_passed_is_not_run_again(
    queue, run_a_job, run_out, pass_timeout, record_of
):
    lease = await run_a_job()
    await run_out(lease)
    await pass_timeout(lease.job)
    await queue.reap()
    record = await record_of(lease.job.id)
    assert (record.status, record.error.code) == (JobStatus.FAILED, ErrorCode.JOB_EXPIRED)


async def test_a_lease_whose_record_has_expired_is_forgotten(queue, run_a_job, run_out, redis, keys):
    lease = await run_a_job()
    await run_out(lease)
    await redis.delete(keys.job(lease.job.id))
    assert await queue.reap() == 1
    assert await queue.depth() == (0, 0)
    assert not await redis.exists(keys.job(lease.job.id))


async def test_one_call_takes_back_a_bounded_number(queue, claim, run_out):
    for _ in range(70):
        await queue.enqueue(a_job())
        await run_out(await claim())
    assert await queue.reap() == 64
    assert await queue.reap() == 6
    assert await queue.depth() == (70, 0)


async def test_where_nobody_claims_it_ends_what_waited_beyond_its_time(queue, pass_timeout, record_of):
    late, early = a_job(), a_job()
    for job in (late, early):
        await queue.enqueue(job)
    await pass_timeout(late)
    assert await queue.reap() == 1
    assert await queue.reap() == 0
    record = await record_of(late.id)
    assert (record.status, record.error.code) == (JobStatus.FAILED, ErrorCode.JOB_EXPIRED)
    assert (await record_of(early.id)).status is JobStatus.QUEUED
    assert await queue.depth() == (1, 0)
