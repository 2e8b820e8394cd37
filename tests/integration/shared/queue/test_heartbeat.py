from shared.jobs import WorkerId
from shared.queue.terms import LeaseState
from tests.builders import WORKER, some_progress


async def test_a_held_lease_is_renewed(a_queue, queue, run_a_job, redis, keys):
    lease = await run_a_job()
    before = await redis.zscore(keys.active, lease.job.id)
    assert await a_queue(lease=900.0).heartbeat(WORKER, [some_progress(lease=lease)]) == {
        lease.job.id: LeaseState.HELD
    }
    assert await redis.zscore(keys.active, lease.job.id) > before + 200


async def test_a_lease_is_never_shortened(a_queue, run_a_job, redis, keys):
    lease = await run_a_job()
    before = await redis.zscore(keys.active, lease.job.id)
    await a_queue(lease=1.0).heartbeat(WORKER, [some_progress(lease=lease)])
    assert await redis.zscore(keys.active, lease.job.id) == before


async def test_progress_is_in_the_record(queue, run_a_job, record_of):
    lease = await run_a_job()
    await queue.heartbeat(WORKER, [some_progress(lease=lease, step=0, total=30)])
    assert (await record_of(lease.job.id)).progress == (0, 30)


async def test_a_lease_that_ran_out_is_held_until_it_is_reaped(queue, run_a_job, run_out):
    lease = await run_a_job()
    await run_out(lease)
    assert await queue.heartbeat(WORKER, [some_progress(lease=lease)]) == {lease.job.id: LeaseState.HELD}
    assert await queue.reap() == 0


async def test_a_reaped_lease_is_lost_and_leaves_no_progress(queue, run_a_job, run_out, record_of):
    lease = await run_a_job()
    await run_out(lease)
    await queue.reap()
    assert await queue.heartbeat(WORKER, [some_progress(lease=lease)]) == {lease.job.id: LeaseState.LOST}
    assert (await record_of(lease.job.id)).progress is None


async def test_a_cancelled_job_is_reported_and_stays_held(queue, run_a_job, run_out):
    lease = await run_a_job()
    await run_out(lease)
    await queue.cancel(lease.job.id)
    assert await queue.heartbeat(WORKER, [some_progress(lease=lease)]) == {lease.job.id: LeaseState.CANCELLED}
    assert await queue.reap() == 0


async def test_another_worker_cannot_renew_it(queue, run_a_job):
    lease = await run_a_job()
    other = WorkerId("worker-2")
    assert await queue.heartbeat(other, [some_progress(lease=lease)]) == {lease.job.id: LeaseState.LOST}


async def test_one_call_tells_each_job_its_own(queue, run_a_job, run_out):
    lost, cancelled, held = [await run_a_job() for _ in range(3)]
    await run_out(lost)
    await queue.reap()
    await queue.cancel(cancelled.job.id)
    assert await queue.heartbeat(
        WORKER, [some_progress(lease=lease) for lease in (lost, cancelled, held)]
    ) == {
        lost.job.id: LeaseState.LOST,
        cancelled.job.id: LeaseState.CANCELLED,
        held.job.id: LeaseState.HELD,
    }


async def test_a_worker_without_jobs_may_beat(queue):
    assert await queue.heartbeat(WORKER, []) == {}
