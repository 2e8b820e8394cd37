"""Who comes next: tenants, priorities, adapters that a worker holds, delays, modes."""

import asyncio
from collections import Counter
from itertools import count

import pytest

from shared.jobs import JobStatus, Priority
from shared.queue.queue import MOST_IN_ONE_CALL
from shared.queue.terms import Enqueued, Mode, QueueSettings
from tests.builders import WORKER, a_job, an_adapter, an_error, some_params

tokens = count()


@pytest.fixture
def take(queue):
    """Claim with a fresh token; the claim, whatever it holds."""

    async def take(queue=queue, **options):
        return await queue.claim(WORKER, f"take-{next(tokens)}", **options)

    return take


async def ids_of(queue, take, number, **options):
    claims = [await take(queue, **options) for _ in range(number)]
    return [claim.leases[0].job.id for claim in claims]


async def fill(queue, *jobs):
    for job in jobs:
        assert (await queue.enqueue(job)).outcome is Enqueued.ADDED


async def test_a_newcomer_does_not_wait_behind_the_flood_of_another_tenant(queue, take):
    flood = [a_job(tenant="flooder") for _ in range(50)]
    late = a_job(tenant="newcomer")
    await fill(queue, *flood, late)
    assert late.id in await ids_of(queue, take, 2)


async def test_a_tenant_of_three_times_the_weight_gets_three_times_the_share(queue, take):
    light = [a_job(tenant="light") for _ in range(20)]
    heavy = [a_job(tenant="heavy", weight=3.0) for _ in range(20)]
    await fill(queue, *light, *heavy)
    first = set(await ids_of(queue, take, 16))
    assert len(first & {job.id for job in heavy}) == 12


@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_jobs_that_no_worker_ran_cost_their_tenant_nothing(queue, redis, keys, take, end):
    others = [a_job(tenant="other") for _ in range(2)]
    large = [a_job(tenant="one", params=some_params(steps=150, width=2048, height=2048)) for _ in range(15)]
    small = a_job(tenant="one")
    await fill(queue, *others, *large)
    for job in large:
        if end == "cancelled":
            await queue.cancel(job.id)
        else:
            await redis.zadd(keys.deadlines, {job.id: 1})
    await queue.reap()
    await fill(queue, small)
    assert small.id in await ids_of(queue, take, 2)


async def test_a_tenant_at_its_cap_is_refused_and_others_are_not(a_queue):
    queue = a_queue(max_waiting_per_tenant=2)
    await fill(queue, a_job(tenant="one"), a_job(tenant="one"))
    assert (await queue.enqueue(a_job(tenant="one"))).outcome is Enqueued.TENANT_FULL
    assert (await queue.enqueue(a_job(tenant="two"))).outcome is Enqueued.ADDED


async def test_a_flood_of_ten_thousand_leaves_room_for_others_and_their_turn(a_queue, take):
    queue = a_queue(lease=600.0)  # with the caps that routers have
    outcomes = Counter()
    for _ in range(40):
        flood = await asyncio.gather(*(queue.enqueue(a_job(tenant="flooder")) for _ in range(250)))
        outcomes.update(admission.outcome for admission in flood)
    assert outcomes == {
        Enqueued.ADDED: QueueSettings().max_waiting_per_tenant,
        Enqueued.TENANT_FULL: 10_000 - QueueSettings().max_waiting_per_tenant,
    }
    late = a_job(tenant="newcomer")
    await fill(queue, late)
    assert late.id in await ids_of(queue, take, 2)


async def test_a_higher_priority_comes_first(queue, take):
    low, normal, high = (a_job(priority=each) for each in (Priority.LOW, Priority.NORMAL, Priority.HIGH))
    await fill(queue, low, normal, high)
    assert await ids_of(queue, take, 3) == [high.id, normal.id, low.id]


async def test_a_flood_of_a_higher_priority_does_not_starve_a_lower_one(queue, redis, keys, take):
    low = a_job(priority=Priority.LOW)
    await fill(queue, low, *(a_job(priority=Priority.HIGH) for _ in range(10)))
    await redis.hset(keys.job(low.id), "enqueued_at", "1")
    assert (await ids_of(queue, take, 4)).index(low.id) == 3


async def test_a_job_whose_adapter_the_worker_holds_comes_first(queue, take):
    head, hot = a_job(), a_job(adapters=(an_adapter(weight_name="hot.safetensors"),))
    await fill(queue, head, hot)
    assert await ids_of(queue, take, 2, hot=[hot.affinity]) == [hot.id, head.id]


async def test_nobody_is_passed_more_often_than_the_bound(a_queue, take):
    queue = a_queue(max_overtakes=3)
    head = a_job()
    hot = [a_job(adapters=(an_adapter(weight_name="hot.safetensors"),)) for _ in range(10)]
    await fill(queue, head, *hot)
    order = await ids_of(queue, take, 11, hot=[hot[0].affinity])
    assert order.index(head.id) == 3


async def test_nobody_is_passed_after_the_oldest_age(queue, redis, keys, take):
    head, hot = a_job(), a_job(adapters=(an_adapter(weight_name="hot.safetensors"),))
    await fill(queue, head, hot)
    await redis.hset(keys.job(head.id), "enqueued_at", "1")
    assert await ids_of(queue, take, 1, hot=[hot.affinity]) == [head.id]


async def test_more_work_than_the_slack_is_not_passed(a_queue, take):
    queue = a_queue(slack=2.5)
    cold = [a_job() for _ in range(4)]
    hot = a_job(adapters=(an_adapter(weight_name="hot.safetensors"),))
    await fill(queue, *cold, hot)
    order = await ids_of(queue, take, 5, hot=[hot.affinity])
    assert order.index(hot.id) == 2


async def test_a_claim_of_several_says_what_comes_after_them(queue, take):
    jobs = [a_job(sealed_token="sealed") for _ in range(4)]
    await fill(queue, *jobs)
    claim = await take(count=2)
    assert [lease.job for lease in claim.leases] == jobs[:2]
    assert [hint.id for hint in claim.hints] == [job.id for job in jobs[2:]]
    assert all(hint.sealed_token is None for hint in claim.hints)


async def test_a_delayed_retry_waits_and_then_comes_in_its_old_place(queue, redis, keys, run_a_job, take):
    lease = await run_a_job()
    later = a_job()
    await fill(queue, later)
    await queue.fail(lease, an_error(), retry=True, delay=60.0)
    claim = await take()
    assert [each.job.id for each in claim.leases] == [later.id]
    assert 0 < claim.next_due <= 60.0
    assert await queue.depth() == (1, 1)

    await fill(queue, a_job())
    await redis.zadd(keys.delayed, {lease.job.id: 1}, xx=True)
    assert await ids_of(queue, take, 1) == [lease.job.id]


async def test_thousands_of_retries_that_are_due_at_once_are_taken_up_in_bounded_portions(
    a_queue, redis, keys, take
):
    queue, number = a_queue(lease=600.0, max_attempts=9), 3000
    for _ in range(number // 250):
        await asyncio.gather(*(queue.enqueue(a_job(tenant=str(tenant))) for tenant in range(250)))
    while leases := (await take(queue, count=60)).leases:
        await asyncio.gather(*(queue.fail(lease, an_error(), retry=True, delay=60.0) for lease in leases))
    assert await redis.zcard(keys.delayed) == number
    for job in await redis.zrange(keys.delayed, 0, -1):
        await redis.zadd(keys.delayed, {job: 1})

    again = set()
    while left := await redis.zcard(keys.delayed):
        again |= {lease.job.id for lease in (await take(queue, count=60)).leases}
        assert left - MOST_IN_ONE_CALL <= await redis.zcard(keys.delayed) < left
    while leases := (await take(queue, count=60)).leases:
        again |= {lease.job.id for lease in leases}
    assert len(again) == number


async def test_a_paused_base_takes_jobs_and_hands_none_out(queue, take):
    await queue.set_mode(Mode.PAUSED)
    await fill(queue, a_job())
    assert (await take()).leases == ()
    await queue.set_mode(Mode.OPEN)
    assert len((await take()).leases) == 1


async def test_a_draining_base_hands_jobs_out_and_takes_none(queue, take):
    await fill(queue, a_job())
    await queue.set_mode(Mode.DRAINING)
    assert (await queue.enqueue(a_job())).outcome is Enqueued.CLOSED
    assert len((await take()).leases) == 1


async def test_a_job_is_not_started_for_a_router_that_is_gone(queue, redis, keys, take, record_of):
    mine, other = a_job(), a_job()
    await queue.enqueue(mine, router="router-1")
    await queue.enqueue(other, router="router-2")
    await redis.zadd(keys.routers, {"router-1": 1})
    assert await ids_of(queue, take, 1) == [other.id]
    assert (await record_of(mine.id)).status is JobStatus.CANCELLED


async def test_a_router_that_attends_keeps_its_jobs(queue, redis, keys, take):
    job = a_job()
    await queue.enqueue(job, router="router-1")
    await redis.delete(keys.routers)
    await queue.attend("router-1")
    assert await ids_of(queue, take, 1) == [job.id]
