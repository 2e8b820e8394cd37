"""How a worker ends an attempt: complete, fail, release. What they share is tested once for all."""

from dataclasses import replace

import pytest

from shared.errors import ErrorCode
from shared.jobs import JobStatus, WorkerId
from tests.builders import a_job, a_result, an_error, some_progress

ENDS = {
    "complete": lambda queue, lease: queue.complete(lease, a_result()),
    "fail": lambda queue, lease: queue.fail(lease, an_error(), retry=False),
    "retry": lambda queue, lease: queue.fail(lease, an_error(), retry=True),
    "release": lambda queue, lease: queue.release(lease),
}
every_end = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())


@every_end
async def test_the_holder_is_told_yes(queue, run_a_job, end):
    assert await end(queue, await run_a_job()) is True


@every_end
async def test_after_a_lost_reply_it_is_told_yes_again_and_nothing_changes(queue, run_a_job, record_of, end):
    lease = await run_a_job()
    await end(queue, lease)
    before = (await record_of(lease.job.id), await queue.depth())
    assert await end(queue, lease) is True
    assert (await record_of(lease.job.id), await queue.depth()) == before


@every_end
async def test_a_worker_that_slept_past_its_lease_changes_nothing(
    queue, run_a_job, claim, run_out, record_of, end
):
    sleeper = await run_a_job()
    await run_out(sleeper)
    await queue.reap()
    second = await claim(worker=WorkerId("worker-2"))
    assert second.job == sleeper.job
    before = await record_of(sleeper.job.id)
    assert await end(queue, sleeper) is False
    assert await record_of(sleeper.job.id) == before
    assert await queue.complete(second, a_result(seed=2))
    assert await end(queue, sleeper) is False
    assert (await record_of(sleeper.job.id)).result.seed == 2


@every_end
async def test_it_changes_nothing_while_the_reaped_job_waits(queue, run_a_job, run_out, record_of, end):
    lease = await run_a_job()
    await run_out(lease)
    await queue.reap()
    assert await end(queue, lease) is False
    assert (await record_of(lease.job.id)).status is JobStatus.QUEUED


@every_end
async def test_neither_another_worker_nor_another_fence_is_the_holder(queue, run_a_job, record_of, end):
    lease = await run_a_job()
    assert await end(queue, replace(lease, worker=WorkerId("worker-2"))) is False
    assert await end(queue, replace(lease, fence=lease.fence - 1)) is False
    assert (await record_of(lease.job.id)).status is JobStatus.RUNNING


@every_end
async def test_a_job_that_is_gone_is_not_held(queue, run_a_job, redis, keys, end):
    lease = await run_a_job()
    await redis.delete(keys.job(lease.job.id))
    assert await end(queue, lease) is False
    assert not await redis.exists(keys.job(lease.job.id))


@every_end
async def test_a_job_that_was_cancelled_meanwhile_ends_cancelled(
    queue, run_a_job, record_of, listen, keys, end
):
    lease = await run_a_job()
    await queue.cancel(lease.job.id)
    async with listen(keys.done) as next_hint:
        assert await end(queue, lease) is True
        assert await next_hint() == lease.job.id
    record = await record_of(lease.job.id)
    assert (record.status, record.result, record.error) == (JobStatus.CANCELLED, None, None)
    assert await queue.depth() == (0, 0)


async def test_one_end_does_not_repeat_another(queue, run_a_job):
    lease = await run_a_job()
    await queue.release(lease)
    assert await queue.complete(lease, a_result()) is False


async def test_a_completed_job_has_its_result(queue, run_a_job, record_of, listen, keys):
    lease = await run_a_job()
    async with listen(keys.done) as next_hint:
        await queue.complete(lease, a_result(seed=11))
        assert await next_hint() == lease.job.id
    record = await record_of(lease.job.id)
    assert (record.status, record.result, record.error) == (JobStatus.SUCCEEDED, a_result(seed=11), None)
    assert record.finished_at >= record.started_at
    assert await queue.depth() == (0, 0)


async def test_a_failed_job_has_its_error(queue, run_a_job, record_of, listen, keys):
    lease = await run_a_job()
    error = an_error(code=ErrorCode.ADAPTER_REJECTED, message="the file is cut off")
    async with listen(keys.done) as next_hint:
        await queue.fail(lease, error, retry=False)
        assert await next_hint() == lease.job.id
    record = await record_of(lease.job.id)
    assert (record.status, record.error, record.result) == (JobStatus.FAILED, error, None)
    assert await queue.depth() == (0, 0)


async def test_an_error_that_may_pass_is_tried_again_until_the_attempts_are_used_up(
    a_queue, claim, record_of
):
    queue = a_queue(max_attempts=2)
    job = a_job()
    await queue.enqueue(job)
    await queue.fail(await claim(queue=queue), an_error(), retry=True)
    assert (await record_of(job.id)).status is JobStatus.QUEUED
    second = await claim(queue=queue)
    assert second.attempt == 2
    await queue.fail(second, an_error(), retry=True)
    record = await record_of(job.id)
    assert (record.status, record.attempts, record.error) == (JobStatus.FAILED, 2, an_error())


@pytest.mark.parametrize("end", [ENDS["retry"], ENDS["release"]], ids=["retry", "release"])
async def test_a_job_that_is_given_back_keeps_its_place(queue, claim, redis, keys, end):
    jobs = [a_job() for _ in range(3)]
    for job in jobs:
        await queue.enqueue(job)
    ages = await redis.zrange(keys.age, 0, -1, withscores=True)
    await end(queue, await claim())
    assert await redis.zrange(keys.age, 0, -1, withscores=True) == ages
    assert [(await claim()).job for _ in jobs] == jobs


@pytest.mark.parametrize("end", [ENDS["retry"], ENDS["release"]], ids=["retry", "release"])
async def test_a_job_that_is_given_back_is_at_its_beginning(queue, run_a_job, record_of, end):
    lease = await run_a_job()
    await queue.heartbeat(lease.worker, [some_progress(lease=lease)])
    await end(queue, lease)
    assert (await record_of(lease.job.id)).progress is None


async def test_a_release_charges_no_attempt(queue, run_a_job, claim, record_of):
    lease = await run_a_job()
    await queue.release(lease)
    assert (await record_of(lease.job.id)).attempts == 0
    again = await claim()
    assert (again.job, again.attempt) == (lease.job, 1)
    assert again.fence > lease.fence


async def test_what_was_asked_for_does_not_outlive_the_job(queue, run_a_job, redis, keys):
    lease = await run_a_job(sealed_token="sealed")
    await queue.complete(lease, a_result())
    assert not await redis.hexists(keys.job(lease.job.id), "job")


async def test_a_record_of_another_version_reads_as_failed_and_hides_no_other(queue, run_a_job, redis, keys):
    strange, other = await run_a_job(), await run_a_job()
    await redis.hset(keys.job(strange.job.id), "result", b'{"of": "another version"}')
    first, second = await queue.records([strange.job.id, other.job.id])
    assert (first.status, first.error.code) == (JobStatus.FAILED, ErrorCode.WORKER_FAULT)
    assert second.status is JobStatus.RUNNING


async def test_a_job_that_waits_again_has_not_started(queue, run_a_job, record_of):
    lease = await run_a_job()
    await queue.release(lease)
    assert (await record_of(lease.job.id)).started_at is None
