"""Jobs that are given up, and adapters that are not run for a while."""

from shared.errors import ErrorCode
from shared.jobs import JobStatus, WorkerId
from shared.queue.terms import Enqueued, QueueSettings
from tests.builders import WORKER, a_job, an_adapter, an_error
from tests.steps import claim_one


async def give_up(queue, run_a_job, run_out, crashes=2, **changes):
    """Have a job killed by as many workers as it may kill; return it."""
    lease = await run_a_job(**changes)
    for crash in range(crashes):
        await run_out(lease)
        assert await queue.reap() == 1
        if crash + 1 < crashes:
            lease = await claim_one(queue, WorkerId(f"after {crash}"), "a token")
    return lease.job


async def test_a_job_that_kills_its_workers_is_kept_for_the_operator(queue, run_a_job, run_out, record_of):
    job = await give_up(queue, run_a_job, run_out)
    assert await queue.dead() == [job.id]
    record = await record_of(job.id)
    assert (record.status, record.error.code) == (JobStatus.FAILED, ErrorCode.WORKER_FAULT)


async def test_so_is_one_that_fails_too_often(a_queue, claim):
    queue = a_queue(max_attempts=2)
    job = a_job()
    await queue.enqueue(job)
    for _ in range(2):
        await queue.fail(await claim(queue=queue), an_error(), retry=True)
    assert await queue.dead() == [job.id]


async def test_one_that_can_never_succeed_is_not_kept(queue, run_a_job):
    await queue.fail(await run_a_job(), an_error(), retry=False)
    assert await queue.dead() == []


async def test_the_operator_has_it_run_again_as_if_it_came_now(queue, run_a_job, run_out):
    job = await give_up(queue, run_a_job, run_out, sealed_token="sealed")
    assert await queue.revive(job.id)
    assert await queue.dead() == []
    lease = await claim_one(queue, WORKER, "again")
    assert (lease.job.id, lease.attempt, lease.job.sealed_token) == (job.id, 1, None)


async def test_its_record_does_not_expire_while_it_waits_again(queue, run_a_job, run_out, redis, keys):
    job = await give_up(queue, run_a_job, run_out)
    assert await redis.ttl(keys.job(job.id)) > 0
    await queue.revive(job.id)
    assert await redis.ttl(keys.job(job.id)) == -1


async def test_or_drops_it(queue, run_a_job, run_out):
    job = await give_up(queue, run_a_job, run_out)
    assert await queue.drop(job.id)
    assert await queue.records([job.id]) == [None]
    assert not await queue.drop(job.id)
    assert not await queue.revive(job.id)


async def test_only_so_many_are_kept_the_oldest_leave(a_queue, claim):
    queue = a_queue(max_attempts=1, max_dead=2)
    jobs = [a_job() for _ in range(3)]
    for job in jobs:
        await queue.enqueue(job)
        await queue.fail(await claim(queue=queue), an_error(), retry=True)
    assert await queue.dead() == [jobs[2].id, jobs[1].id]


async def test_a_limit_that_was_lowered_is_reached_in_the_end(a_queue, claim):
    before, now = a_queue(max_attempts=1, max_dead=5), a_queue(max_attempts=1, max_dead=1)
    for queue in [before] * 5 + [now] * 5:
        last = a_job()
        await queue.enqueue(last)
        await queue.fail(await claim(queue=queue), an_error(), retry=True)
    assert await queue.dead() == [last.id]


async def test_those_whose_time_is_over_are_not_counted_and_leave_with_the_next(a_queue, claim, redis, keys):
    queue = a_queue(max_attempts=1)
    for job in (a_job(), a_job()):
        await queue.enqueue(job)
    old, new = await claim(queue=queue), await claim(queue=queue)
    await queue.fail(old, an_error(), retry=True)
    await redis.zadd(keys.dead, {old.job.id: 1}, xx=True)
    assert (await queue.overview()).given_up == 0
    await queue.fail(new, an_error(), retry=True)
    assert await queue.dead() == [new.job.id]


async def test_the_operator_may_look_at_the_latest_only(a_queue, claim):
    queue = a_queue(max_attempts=1)
    jobs = [a_job() for _ in range(3)]
    for job in jobs:
        await queue.enqueue(job)
        await queue.fail(await claim(queue=queue), an_error(), retry=True)
    assert await queue.dead(2) == [jobs[2].id, jobs[1].id]


async def test_adapters_that_kill_worker_after_worker_are_refused_and_others_are_not(
    a_queue, run_a_job, run_out
):
    queue = a_queue(max_crashes=5, max_adapter_crashes=3)
    await give_up(queue, run_a_job, run_out, crashes=3)
    refused = await queue.enqueue(a_job())
    assert refused.outcome is Enqueued.QUARANTINED
    assert 0 < refused.seconds <= 600
    other = a_job(adapters=(an_adapter(weight_name="another.safetensors"),))
    assert (await queue.enqueue(other)).outcome is Enqueued.ADDED


async def test_those_that_wait_already_fail_with_the_reason_when_their_turn_comes(
    a_queue, run_a_job, run_out, record_of, queue
):
    queue = a_queue(max_crashes=5, max_adapter_crashes=3)
    await give_up(queue, run_a_job, run_out, crashes=2)
    waiting = a_job()
    await queue.enqueue(waiting)
    await run_out(await claim_one(queue, WorkerId("the third"), "a token"))
    await queue.reap()
    assert await claim_one(queue, WORKER, "none is left") is None
    assert (await record_of(waiting.id)).error.code is ErrorCode.ADAPTER_REJECTED


async def test_a_worker_that_died_with_many_jobs_of_an_adapter_counts_once_against_it(
    a_queue, claim, run_out
):
    queue = a_queue(max_crashes=9, max_adapter_crashes=3)
    jobs = [a_job() for _ in range(5)]
    for job in jobs:
        await queue.enqueue(job)
    for _ in range(2):  # as when not all of its leases run out at the same moment
        for lease in [await claim(queue=queue) for _ in range(2)]:
            await run_out(lease)
        assert await queue.reap() == 2
    later = a_job()
    assert (await queue.enqueue(later)).outcome is Enqueued.ADDED
    assert [(await claim(queue=queue)).job for _ in (*jobs, later)] == [*jobs, later]


async def test_the_quarantine_ends_by_itself(a_queue, run_a_job, run_out, redis, keys):
    queue = a_queue(max_crashes=5, max_adapter_crashes=3)
    job = await give_up(queue, run_a_job, run_out, crashes=3)
    assert 0 < await redis.ttl(keys.deaths(job.affinity)) <= 600
    await redis.delete(keys.deaths(job.affinity))
    assert (await queue.enqueue(a_job())).outcome is Enqueued.ADDED


async def test_the_bare_base_is_never_in_quarantine(a_queue, run_a_job, run_out):
    queue = a_queue(max_crashes=9, max_adapter_crashes=3)
    await give_up(queue, run_a_job, run_out, crashes=4, adapters=())
    assert (await queue.enqueue(a_job(adapters=()))).outcome is Enqueued.ADDED


async def test_those_that_leave_are_kept_for_no_longer_than_any_other(a_queue, claim, redis, keys):
    queue = a_queue(max_attempts=1, max_dead=1)
    jobs = [a_job(), a_job()]
    for job in jobs:
        await queue.enqueue(job)
        await queue.fail(await claim(queue=queue), an_error(), retry=True)
    older, newer = [keys.job(job.id) for job in jobs]
    assert 0 < await redis.ttl(older) <= QueueSettings().record_ttl < await redis.ttl(newer)
    assert not await redis.hexists(older, "job")
    assert await redis.hexists(newer, "job")
    assert not await queue.revive(jobs[0].id)
