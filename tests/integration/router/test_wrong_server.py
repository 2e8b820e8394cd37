"""A router whose Redis answers and cannot hold the queue."""

import asyncio
import time

from redis.asyncio import Redis

from router.server_guard import CLOSED
from tests.builders import BASE

PATIENCE = 15.0


async def answers(http, url, status):
    """Wait for a status of `/ready`; return the body."""
    deadline = time.monotonic() + PATIENCE
    while True:
        async with http.get(f"{url}/ready") as response:
            body = await response.text()
            if response.status == status:
                return body
        assert time.monotonic() < deadline, body
        await asyncio.sleep(0.1)


async def test_a_server_that_evicts_gets_no_jobs_until_it_is_mended(http, start_router, redis: Redis, worker):
    await redis.config_set("maxmemory", "500mb")
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        router = await start_router()
        assert "set it to noeviction" in await answers(http, router, 503)
        async with http.post(f"{router}/models/{BASE}", data="a cat") as response:
            assert response.status == 503
            assert response.headers["X-Error-Code"] == "queue_unavailable"
            assert response.headers["Retry-After"]
            assert CLOSED in await response.text()
        assert worker.jobs == []
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("maxmemory", "0")
    await answers(http, router, 200)
    async with http.post(f"{router}/models/{BASE}", data="a cat") as response:
        assert response.status == 200


async def test_a_wrong_password_is_told_without_it(http, start_router, redis_url):
    password = redis_url.split(":")[2].split("@")[0]
    router = await start_router(redis_url.replace(password, "hunter2"))
    body = await answers(http, router, 503)
    assert "REDIS_URL" in body
    assert "hunter2" not in body
