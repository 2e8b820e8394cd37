"""What the queue says of itself and of a single job."""

from shared.jobs import JobStatus
from shared.queue.terms import Mode
from tests.builders import WORKER, a_job, a_result, an_error
from tests.steps import claim_one


async def test_an_empty_queue_is_open_and_has_nothing(queue):
    overview = await queue.overview()
    assert (overview.mode, overview.waiting, overview.delayed, overview.running) == (Mode.OPEN, 0, 0, 0)
    assert (overview.given_up, overview.oldest_wait, overview.work) == (0, 0.0, 0.0)


async def test_every_job_is_counted_where_it_is(a_queue):
    queue = a_queue(lease=600.0, max_attempts=2)
    for _ in range(5):
        await queue.enqueue(a_job())
    given_up, delayed, _ = [await claim_one(queue, WORKER, f"t{number}") for number in range(3)]
    await queue.fail(given_up, an_error(), retry=True)
    again = await claim_one(queue, WORKER, "again")
    assert again.job == given_up.job
    await queue.fail(again, an_error(), retry=True)
    await queue.fail(delayed, an_error(), retry=True, delay=600.0)
    await queue.set_mode(Mode.PAUSED)
    overview = await queue.overview()
    assert overview.mode is Mode.PAUSED
    assert (overview.waiting, overview.delayed, overview.running, overview.given_up) == (2, 1, 1, 1)


async def test_the_oldest_wait_and_the_work_are_of_what_waits(queue, redis, keys):
    job = a_job()
    await queue.enqueue(job)
    await queue.enqueue(a_job())
    seconds, _ = await redis.time()
    await redis.zadd(keys.age, {job.id: seconds - 100})
    overview = await queue.overview()
    assert 100 <= overview.oldest_wait < 110
    assert overview.work == 2.0  # a second each, before anything is known
    assert seconds <= overview.now


async def test_what_was_asked_for_is_known_until_the_end_but_not_with_whose_token(queue, claim):
    job = a_job(sealed_token="sealed")
    await queue.enqueue(job)
    known = await queue.find(job.id)
    assert (known.record.status, known.given_up) == (JobStatus.QUEUED, False)
    assert (known.job.params, known.job.sealed_token) == (job.params, None)
    assert known.record.enqueued_at <= known.now
    await queue.complete(await claim(), a_result())
    known = await queue.find(job.id)
    assert (known.record.status, known.job) == (JobStatus.SUCCEEDED, None)


async def test_that_of_a_job_that_was_given_up_stays(a_queue, claim):
    queue = a_queue(max_attempts=1)
    job = a_job()
    await queue.enqueue(job)
    await queue.fail(await claim(queue=queue), an_error(), retry=True)
    known = await queue.find(job.id)
    assert (known.record.status, known.job, known.given_up) == (JobStatus.FAILED, job, True)


async def test_a_job_that_nobody_knows_is_none(queue):
    assert await queue.find(a_job().id) is None


async def test_one_of_another_version_is_known_as_far_as_it_can_be_read(queue, redis, keys):
    job = a_job()
    await queue.enqueue(job)
    await redis.hset(keys.job(job.id), "job", b'{"version":99}')
    known = await queue.find(job.id)
    assert (known.record.status, known.job) == (JobStatus.QUEUED, None)
