from shared.errors import ErrorCode
from shared.jobs import JobStatus, WorkerId
from tests.builders import WORKER, a_job, an_adapter, an_error, some_params
from tests.steps import claim_one

OTHER = WorkerId("worker-2")


async def test_an_empty_queue_gives_nothing(queue):
    assert await claim_one(queue, WORKER, "token") is None


async def test_the_whole_job_arrives(queue):
    job = a_job(
        params=some_params(prompt='ein "Kreis" \N{BLUE HEART}', guidance_scale=7.5, width=512),
        adapters=(an_adapter(scale=0.5), an_adapter(weight_name="other.safetensors")),
        sealed_token="sealed",
    )
    await queue.enqueue(job)
    lease = await claim_one(queue, WORKER, "token")
    assert (lease.job, lease.worker, lease.attempt) == (job, WORKER, 1)


async def test_a_claimed_job_runs(queue, run_a_job, record_of):
    lease = await run_a_job()
    record = await record_of(lease.job.id)
    assert (record.status, record.attempts) == (JobStatus.RUNNING, 1)
    assert record.started_at >= record.enqueued_at
    assert await queue.depth() == (0, 1)


async def test_jobs_come_in_the_order_of_their_enqueue(queue, claim):
    jobs = [a_job() for _ in range(5)]
    for job in jobs:
        await queue.enqueue(job)
    assert [(await claim()).job for _ in jobs] == jobs


async def test_no_job_is_given_twice(queue):
    await queue.enqueue(a_job())
    assert await claim_one(queue, WORKER, "token-1")
    assert await claim_one(queue, WORKER, "token-2") is None
    assert await claim_one(queue, OTHER, "token-3") is None


async def test_the_same_token_gets_the_same_lease_again(queue):
    await queue.enqueue(a_job())
    await queue.enqueue(a_job())
    lease = await claim_one(queue, WORKER, "token")
    assert await claim_one(queue, WORKER, "token") == lease
    assert await queue.depth() == (1, 1)


async def test_which_lasts_as_long_as_if_it_were_new(queue, redis, keys):
    await queue.enqueue(a_job())
    lease = await claim_one(queue, WORKER, "token")
    await redis.zadd(keys.active, {lease.job.id: 1})  # nearly over, when the reply was lost
    assert await claim_one(queue, WORKER, "token") == lease
    now, _ = await redis.time()
    assert await redis.zscore(keys.active, lease.job.id) > now


async def test_a_hint_whose_record_was_lost_is_none(queue, redis, keys):
    first, lost, last = a_job(), a_job(), a_job()
    for job in (first, lost, last):
        await queue.enqueue(job)
    await redis.delete(keys.job(lost.id))
    claim = await queue.claim(WORKER, "token")
    assert [lease.job for lease in claim.leases] == [first]
    assert claim.hints == (last,)


async def test_a_job_whose_record_was_lost_leaves_and_holds_up_no_other(queue, redis, keys, claim):
    delayed, ready, good = a_job(), a_job(), a_job()
    await queue.enqueue(delayed)
    await queue.fail(await claim(), an_error(), retry=True, delay=1000.0)
    for job in (ready, good):
        await queue.enqueue(job)
    for lost in (delayed, ready):
        await redis.delete(keys.job(lost.id))
        await redis.zadd(keys.deadlines, {lost.id: 1}, xx=True)
    await redis.zadd(keys.delayed, {delayed.id: 1}, xx=True)

    assert (await claim()).job == good
    assert await redis.zcard(keys.deadlines) == 0
    assert await queue.depth() == (0, 1)


async def test_a_token_means_nothing_to_another_worker(queue):
    await queue.enqueue(a_job())
    await queue.enqueue(a_job())
    lease = await claim_one(queue, WORKER, "token")
    assert (await claim_one(queue, OTHER, "token")).job != lease.job


async def test_the_token_of_a_lost_lease_gets_a_new_lease(queue, run_out):
    await queue.enqueue(a_job())
    lost = await claim_one(queue, WORKER, "token")
    await run_out(lost)
    await queue.reap()
    again = await claim_one(queue, WORKER, "token")
    assert again.job == lost.job
    assert again.fence > lost.fence


async def test_a_later_claim_has_a_higher_fence_even_after_the_server_lost_its_data(queue, redis, run_a_job):
    before = await run_a_job()
    await redis.flushall()
    await queue.enqueue(before.job)
    after = await claim_one(queue, WORKER, "token")
    assert after.fence > before.fence
    assert not await queue.release(before)


async def test_it_has_a_higher_fence_even_after_the_servers_clock_was_set_back(queue, redis, keys, run_a_job):
    far_ahead = 9_000_000_000_000_000
    await redis.hset(keys.meta, "fence", str(far_ahead))
    assert [(await run_a_job()).fence for _ in range(2)] == [far_ahead + 1, far_ahead + 2]


async def test_a_job_whose_timeout_has_passed_fails_and_is_not_given(queue, record_of, pass_timeout, claim):
    late, next_one = a_job(), a_job()
    await queue.enqueue(late)
    await queue.enqueue(next_one)
    await pass_timeout(late)
    assert (await claim()).job == next_one
    record = await record_of(late.id)
    assert (record.status, record.attempts) == (JobStatus.FAILED, 0)
    assert record.error.code is ErrorCode.JOB_EXPIRED


async def test_its_end_is_published(queue, pass_timeout, listen, keys):
    job = a_job()
    await queue.enqueue(job)
    await pass_timeout(job)
    async with listen(keys.done) as next_hint:
        assert await claim_one(queue, WORKER, "token") is None
        assert await next_hint() == job.id


async def test_one_claim_ends_a_bounded_number_of_them(queue, redis, pass_timeout, keys):
    jobs = [a_job() for _ in range(70)]
    for job in jobs:
        await queue.enqueue(job)
    for job in jobs:
        await pass_timeout(job)
    assert await claim_one(queue, WORKER, "token-1") is None
    assert await queue.depth() == (6, 0)
    assert await redis.exists(keys.wake)
    assert await claim_one(queue, WORKER, "token-2") is None
    assert await queue.depth() == (0, 0)


async def test_a_job_whose_record_has_expired_is_skipped(queue, redis, keys, claim):
    gone, there = a_job(), a_job()
    await queue.enqueue(gone)
    await queue.enqueue(there)
    await redis.delete(keys.job(gone.id))
    assert (await claim()).job == there
    assert await queue.depth() == (0, 1)
    assert await queue.oldest_wait() == 0.0
    assert not await redis.exists(keys.job(gone.id))


async def test_a_job_of_another_version_fails_instead_of_killing_workers(queue, redis, keys, record_of):
    job = a_job()
    await queue.enqueue(job)
    await redis.hset(keys.job(job.id), "job", b'{"version":99}')
    assert await claim_one(queue, WORKER, "token") is None
    record = await record_of(job.id)
    assert (record.status, record.error.code) == (JobStatus.FAILED, ErrorCode.WORKER_FAULT)


async def test_the_memory_of_a_claim_expires(a_queue, redis, keys):
    queue = a_queue(claim_memory=77)
    await queue.enqueue(a_job())
    await claim_one(queue, WORKER, "token")
    assert 70 < await redis.ttl(keys.worker(WORKER)) <= 77
