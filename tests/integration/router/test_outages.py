import asyncio
import time

from tests.builders import BASE
from tests.integration.router.conftest import ADAPTER, eventually


async def status(http, url, method="GET", **options):
    async with http.request(method, url, **options) as response:
        return response.status, response.headers.get("X-Error-Code")


async def test_without_redis_requests_fail_soon_and_all_comes_back_by_itself(
    http, start_router, link, worker
):
    router = await start_router(redis=link.url)
    url = f"{router}/models/{ADAPTER}"
    assert await status(http, url, "POST", data="a cat") == (200, None)

    await link.refuse()
    for path in ("/ready", "/info"):
        assert await status(http, f"{router}{path}") == (503, "queue_unavailable")
    assert await status(http, url, "POST", data="a cat") == (503, "queue_unavailable")
    assert await status(http, f"{router}/health") == (200, None)
    assert await status(http, f"{router}/metrics") == (200, None)

    await link.heal()
    assert await status(http, f"{router}/ready") == (200, None)
    assert await status(http, url, "POST", data="a cat") == (200, None)


async def test_the_router_starts_before_redis(http, start_router, link, worker):
    await link.refuse()
    router = await start_router(redis=link.url)
    assert await status(http, f"{router}/ready") == (503, "queue_unavailable")

    await link.heal()
    assert await status(http, f"{router}/models/{ADAPTER}", "POST", data="a cat") == (200, None)


async def test_who_waits_survives_an_outage(http, start_router, link, worker):
    router = await start_router(redis=link.url)
    worker.free.clear()
    waiting = [
        asyncio.create_task(status(http, f"{router}/models/{ADAPTER}", "POST", data="a cat"))
        for _ in range(3)
    ]
    await eventually(lambda: worker.has_claimed(1))
    await eventually(lambda: worker.sees_waiting(2))
    await link.refuse()
    worker.free.set()
    await eventually(lambda: worker.has_claimed(3))
    await asyncio.sleep(1.5)
    await link.heal()

    assert await asyncio.gather(*waiting) == [(200, None)] * 3


async def test_jobs_that_redis_forgot_are_enqueued_again_and_answered_once(http, router, redis, worker):
    worker.free.clear()
    waiting = [
        asyncio.create_task(status(http, f"{router}/models/{ADAPTER}", "POST", data="a cat"))
        for _ in range(5)
    ]
    await eventually(lambda: worker.has_claimed(1))
    await eventually(lambda: worker.sees_waiting(4))
    await redis.flushall()
    worker.free.set()

    assert await asyncio.gather(*waiting) == [(200, None)] * 5
    assert len({job.id for job in worker.jobs}) == 5


async def test_a_lost_hint_costs_a_sweep_not_the_answer(http, router, redis, worker):
    worker.free.clear()
    waiting = asyncio.create_task(status(http, f"{router}/models/{BASE}", "POST", data="a cat"))
    await eventually(lambda: worker.has_claimed(1))
    await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    worker.free.set()

    assert await waiting == (200, None)


async def test_a_503_is_not_bait_for_a_client_that_repeats_at_once(http, router, worker):
    begin = time.monotonic()
    for _ in range(3):
        assert (await status(http, f"{router}/models/someone/other-base", "POST", data="a"))[0] == 503

    assert time.monotonic() - begin > 0.6
