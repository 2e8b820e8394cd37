"""What stays behind: nothing that has no end."""

from shared.jobs import WorkerId
from shared.queue.keys import POOLS
from tests.builders import WORKER, a_job, a_result, an_adapter, an_error, some_params


async def test_after_all_jobs_have_ended_every_key_expires_or_is_permanent(
    queue, redis, keys, claim, run_out, pass_timeout
):
    jobs = [a_job() for _ in range(8)]
    for job in jobs:
        await queue.enqueue(job)
    await queue.complete(await claim(), a_result())
    await queue.fail(await claim(), an_error(), retry=False)
    await queue.release(await claim())
    await queue.fail(await claim(worker=WorkerId("worker-2")), an_error(), retry=True)
    await run_out(await claim())
    await queue.reap()
    running = await claim()
    await queue.cancel(running.job.id)
    await queue.complete(running, a_result())
    await pass_timeout(jobs[3])
    for job in jobs:
        await queue.cancel(job.id)
    while await queue.depth() != (0, 0):
        await queue.complete(await claim(), a_result())

    left = [key.decode() for key in await redis.keys()]
    permanent = {keys.meta, POOLS}
    assert [key for key in left if key not in permanent and await redis.ttl(key) <= 0] == []
    assert {key for key in left if key not in permanent} == {
        *(keys.job(job.id) for job in jobs),
        keys.worker("worker-1"),
        keys.worker("worker-2"),
        keys.deaths(jobs[0].affinity),
    }


async def test_on_a_base_that_is_never_empty_neither_tenants_nor_overtakes_add_up(queue, redis, keys, claim):
    small, large = (some_params(steps=steps, width=64, height=64) for steps in (20, 60))
    hot = an_adapter(weight_name="hot.safetensors")
    await queue.enqueue(a_job(tenant="first", params=small))
    tags, overtakers = [], []
    for number in range(50):
        passed = a_job(tenant=f"passed {number}", params=small)
        passing = a_job(tenant=f"passing {number}", params=large, adapters=(hot,))
        await queue.enqueue(passed)
        await queue.enqueue(passing)
        (lease,) = (await queue.claim(WORKER, f"hot {number}", hot=[passing.affinity])).leases
        assert lease.job == passing
        await queue.complete(lease, a_result())
        await queue.complete(await claim(), a_result())
        assert await queue.depth() == (1, 0)
        tags.append(await redis.zcard(keys.tags))
        overtakers.append(await redis.zcard(keys.overtakers))
    for sizes in (tags, overtakers):
        assert 0 < max(sizes[25:]) <= max(sizes[:25])


async def test_a_router_that_is_gone_is_forgotten_when_another_one_says_that_it_is_there(queue, redis, keys):
    await queue.attend("gone")
    await redis.zadd(keys.routers, {"gone": 1})
    await queue.attend("there")
    assert await redis.zrange(keys.routers, 0, -1) == [b"there"]


async def test_the_record_of_an_ended_job_stays_for_its_time(a_queue, redis, keys, claim):
    queue = a_queue(record_ttl=50)
    job = a_job(timeout=5000.0)
    await queue.enqueue(job)
    await queue.complete(await claim(queue=queue), a_result())
    assert 40 < await redis.ttl(keys.job(job.id)) <= 50


async def test_all_keys_of_a_base_share_its_hash_tag(queue, redis, keys, run_a_job):
    await run_a_job()
    await queue.enqueue(a_job())
    assert len(await redis.keys()) > 5
    assert all(key.decode().startswith(keys.prefix + ":") for key in await redis.keys())
