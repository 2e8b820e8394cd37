import pytest

from shared.jobs import JobStatus, new_job_id
from tests.builders import BASE, WORKER, a_job, a_result, an_error
from tests.steps import claim_one


async def test_a_waiting_job_ends_at_once(queue, listen, keys):
    job = a_job()
    await queue.enqueue(job)
    async with listen(keys.done) as next_hint:
        record = await queue.cancel(job.id)
        assert await next_hint() == job.id
    assert (record.id, record.status) == (job.id, JobStatus.CANCELLED)
    assert record.finished_at is not None
    assert await queue.depth() == (0, 0)
    assert await queue.oldest_wait() == 0.0
    assert await claim_one(queue, WORKER, "token") is None


async def test_the_worker_of_a_running_job_is_told(queue, run_a_job, listen, keys):
    lease = await run_a_job()
    async with listen(keys.control) as next_hint:
        record = await queue.cancel(lease.job.id)
        assert await next_hint() == lease.job.id
    assert record.status is JobStatus.RUNNING


async def test_it_may_be_repeated(queue, run_a_job):
    lease = await run_a_job()
    assert await queue.cancel(lease.job.id) == await queue.cancel(lease.job.id)
    await queue.release(lease)
    assert await queue.cancel(lease.job.id) == await queue.cancel(lease.job.id)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda queue, lease: queue.complete(lease, a_result()), JobStatus.SUCCEEDED),
        (lambda queue, lease: queue.fail(lease, an_error(), retry=False), JobStatus.FAILED),
    ],
    ids=["completed", "failed"],
)
async def test_an_ended_job_stays_as_it_is(queue, run_a_job, record_of, end, status):
    lease = await run_a_job()
    await end(queue, lease)
    before = await record_of(lease.job.id)
    assert await queue.cancel(lease.job.id) == before
    assert before.status is status


async def test_a_job_that_is_given_back_and_then_cancelled_does_not_run_again(queue, run_a_job):
    lease = await run_a_job()
    await queue.release(lease)
    assert (await queue.cancel(lease.job.id)).status is JobStatus.CANCELLED
    assert await claim_one(queue, WORKER, "token") is None


async def test_an_unknown_job_has_no_record(queue, redis):
    assert await queue.cancel(new_job_id(BASE)) is None
    assert await redis.keys() == []
