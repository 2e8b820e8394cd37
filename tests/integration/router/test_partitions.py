"""A network between router and Redis that is silent, slow, or keeps losing the subscription."""

import asyncio
import time
from contextlib import asynccontextmanager

from router.metrics import Metrics
from router.queues import Queues
from router.waiting import JobWaiter
from shared.jobs import JobStatus
from shared.queue.terms import QueueSettings
from shared.redis_client import REPLY_SECONDS, pubsub_client
from shared.results.redis_store import RedisResults
from tests.builders import a_job
from tests.integration.router.conftest import ADAPTER, eventually

SWEEP = 1.0
LATENCY, LOSS = 0.1, 0.01


async def status(http, router):
    async with http.post(f"{router}/models/{ADAPTER}", data="a cat") as response:
        return response.status, response.headers.get("X-Error-Code")


@asynccontextmanager
async def repeated(fault, every):
    async def repeat():
        while True:
            await fault()
            await asyncio.sleep(every)

    repeating = asyncio.create_task(repeat())
    yield
    repeating.cancel()
    await asyncio.gather(repeating, return_exceptions=True)


async def test_who_waits_through_a_silence_is_answered_once_it_ends(http, start_router, link, worker):
    router = await start_router(redis=link.url)
    worker.free.clear()
    waiting = [asyncio.create_task(status(http, router)) for _ in range(3)]
    await eventually(lambda: worker.has_claimed(1))
    await eventually(lambda: worker.sees_waiting(2))
    link.black_hole()
    worker.free.set()
    await eventually(lambda: worker.has_claimed(3))
    await asyncio.sleep(REPLY_SECONDS + SWEEP)  # a sweep has failed
    assert not any(each.done() for each in waiting)
    await link.heal()

    assert await asyncio.gather(*waiting) == [(200, None)] * 3
    assert len(worker.jobs) == 3


async def test_who_waits_until_the_deadline_of_the_silence_is_told_and_the_job_cancelled_after_it(
    http, start_router, link, worker
):
    router = await start_router(redis=link.url, WARMBASE_REQUEST_TIMEOUT="2")
    worker.free.clear()
    begin = time.monotonic()
    waiting = asyncio.create_task(status(http, router))
    await eventually(lambda: worker.has_claimed(1))
    link.black_hole()

    assert await waiting == (504, "job_expired")
    assert time.monotonic() - begin < 3.0
    await link.heal()
    await eventually(worker.has_cancelled)


async def test_new_requests_in_a_silence_that_is_known_are_refused_at_once(http, start_router, link, worker):
    router = await start_router(redis=link.url)
    assert await status(http, router) == (200, None)
    link.black_hole()
    assert await status(http, router) == (503, "queue_unavailable")
    seconds = []
    for _ in range(3):
        begin = time.monotonic()
        assert await status(http, router) == (503, "queue_unavailable")
        seconds.append(time.monotonic() - begin)
    await link.heal()

    assert max(seconds) < REPLY_SECONDS / 3

    async def serves_again():
        return await status(http, router) == (200, None)

    await eventually(serves_again)


async def test_a_request_whose_enqueue_is_not_answered_is_run_once(http, start_router, link, worker):
    router = await start_router(redis=link.url)
    assert await status(http, router) == (200, None)
    link.lose_replies(b"EVALSHA")

    assert await status(http, router) == (200, None)
    assert link.lost_replies == 1
    assert len({job.id for job in worker.jobs}) == len(worker.jobs) == 2


async def test_latency_and_loss_cost_time_and_no_second_run(http, start_router, link, worker):
    router = await start_router(redis=link.url)
    link.delay(LATENCY, loss=LOSS)

    assert await asyncio.gather(*(status(http, router) for _ in range(20))) == [(200, None)] * 20
    assert len({job.id for job in worker.jobs}) == len(worker.jobs) == 20


async def test_a_subscription_that_is_killed_again_and_again_costs_no_more_than_a_sweep(
    http, router, redis, worker
):
    killed, seconds = [], []

    async def kill():
        killed.append(await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))

    end = time.monotonic() + 6.0
    async with repeated(kill, every=0.5):
        while time.monotonic() < end:
            begin = time.monotonic()
            assert await status(http, router) == (200, None)
            seconds.append(time.monotonic() - begin)

    assert sum(killed) >= 8
    assert max(seconds) < SWEEP + 0.5


async def test_a_subscription_that_fell_silent_costs_no_more_than_a_sweep(redis, queue, link):
    queues = Queues(redis, QueueSettings(), Metrics(), RedisResults(redis, ttl=60, most_bytes=1 << 20))
    async with (
        pubsub_client(link.url) as subscriptions,
        JobWaiter(queues, subscriptions, sweep_every=SWEEP) as waiter,
    ):
        job = a_job()
        waiting = asyncio.create_task(waiter.run(job, 1))

        async def is_waiting():
            return (await queue.depth())[0] == 1 and link.connections == 1

        await eventually(is_waiting)
        link.black_hole()
        begin = time.monotonic()
        await queue.cancel(job.id)

        assert (await waiting).status is JobStatus.CANCELLED
        assert time.monotonic() - begin < SWEEP + 0.5
