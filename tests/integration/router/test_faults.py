"""What goes wrong between clients, router and queue, seen by the clients."""

import asyncio
import random
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from itertools import count

import aiohttp
import pytest

from deploy.ports import free_ports
from router.queues import refusal
from shared.jobs import WorkerId
from shared.pools import PoolDirectory
from shared.queue.keys import ALL_BASES, BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import Enqueued, QueueSettings
from shared.refs import base_tag
from tests.builders import BASE, a_job, a_result, a_worker, some_params, some_timings
from tests.integration.router.conftest import ADAPTER, FEW_STEP, PixelWorker, eventually
from tests.integration.router.test_process import environment, wait_until_ready
from tests.steps import claim_one

LATER = {"Prefer": "respond-async"}


async def ask(http, router, model=ADAPTER, **headers):
    async with http.post(f"{router}/models/{model}", data="a cat", headers=headers) as response:
        return response.status, (await response.read()).decode(errors="replace")


@pytest.fixture
async def base_queue(redis):
    """The queue of a base that is announced, with the settings that routers have."""
    await PoolDirectory(redis).announce(a_worker(), 60.0)
    return JobQueue(redis, base_tag(BASE), QueueSettings())


@pytest.fixture
def kill_a_worker(base_queue, redis, keys):
    """Have a worker, each time another one, claim the next job, and die."""
    numbers = count()

    async def kill():
        lease = await claim_one(base_queue, WorkerId(f"doomed-{next(numbers)}"), "a token")
        assert await redis.zadd(keys.active, {lease.job.id: 1}, xx=True, ch=True) == 1
        assert await base_queue.reap() == 1

    return kill


async def test_adapters_that_kill_workers_are_refused_with_the_reason_and_for_how_long(
    http, router, base_queue, kill_a_worker
):
    for _ in range(2):
        assert (await ask(http, router, **LATER))[0] == 202
    for _ in range(QueueSettings().max_adapter_crashes):
        await kill_a_worker()

    status, text = await ask(http, router)
    assert status == 422
    (seconds,) = re.findall(r"worker after worker died with these adapters.* another (\d+) s", text)
    assert 0 < int(seconds) <= QueueSettings().quarantine
    assert (await ask(http, router, FEW_STEP, **LATER))[0] == 202


async def test_a_job_that_redis_forgot_and_nobody_waits_for_is_not_found(http, router, worker, redis):
    worker.free.clear()
    async with http.post(f"{router}/models/{ADAPTER}", data="a cat", headers=LATER) as response:
        job = (await response.json())["id"]
    await eventually(lambda: worker.has_claimed(1))
    await redis.flushall()
    worker.free.set()

    for path in (f"/jobs/{job}", f"/jobs/{job}/image"):
        async with http.get(f"{router}{path}") as response:
            assert (response.status, response.headers["X-Error-Code"]) == (404, "job_not_found")


async def test_a_server_without_memory_refuses_the_new_and_ends_the_old(http, router, worker, redis):
    worker.free.clear()
    running = asyncio.create_task(ask(http, router))
    await eventually(lambda: worker.has_claimed(1))
    await redis.config_set("maxmemory", 1)
    try:
        assert (await ask(http, router))[0] == 503
    finally:
        await redis.config_set("maxmemory", 0)
    worker.free.set()

    async def takes_jobs():
        return (await ask(http, router))[0] == 200

    assert (await running)[0] == 200
    await eventually(takes_jobs)


async def test_a_server_that_is_nearly_full_gets_no_new_jobs_but_images_do_not_count(
    http, router, worker, redis
):
    async def is_refused_for_memory():
        status, body = await ask(http, router)
        return status == 503 and "memory" in body

    async def takes_jobs():
        return (await ask(http, router))[0] == 200

    used = (await redis.info("memory"))["used_memory"]
    try:
        await redis.config_set("maxmemory", int(used * 1.05))
        await eventually(is_refused_for_memory)
        await redis.set(BaseKeys(ALL_BASES).blob_bytes, used // 2)
        await eventually(takes_jobs)
    finally:
        await redis.config_set("maxmemory", 0)
    await redis.delete(BaseKeys(ALL_BASES).blob_bytes)


async def test_a_client_that_leaves_while_its_job_waits_takes_it_off_the_queue(http, router, worker):
    worker.free.clear()
    first = asyncio.create_task(ask(http, router))
    await eventually(lambda: worker.has_claimed(1))
    second = asyncio.create_task(ask(http, router))
    await eventually(lambda: worker.sees_waiting(1))
    second.cancel()
    await eventually(lambda: worker.sees_waiting(0))
    worker.free.set()

    assert (await first)[0] == 200
    assert (await ask(http, router))[0] == 200
    assert len(worker.jobs) == 2


def counted(text, name):
    return sum(float(value) for value in re.findall(rf"^{name}_total{{.*}} (\S+)$", text, re.MULTILINE))


async def test_clients_that_leave_as_their_jobs_end_leave_no_error_and_no_count_behind(
    http, router, worker, caplog
):
    chance = random.Random(0)  # noqa: S311 - the same moments in every run
    for number in range(50):
        worker.free.clear()
        request = asyncio.create_task(ask(http, router))
        await eventually(lambda number=number: worker.has_claimed(number + 1))
        worker.free.set()
        await asyncio.sleep(chance.uniform(0, 0.05))
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)

    async def all_are_counted():
        async with http.get(f"{router}/metrics") as response:
            text = await response.text()
        return counted(text, "warmbase_jobs_enqueued") == counted(text, "warmbase_jobs_finished") == 50

    await eventually(all_are_counted)
    assert await worker.queue.depth() == (0, 0)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert (await ask(http, router))[0] == 200


@contextmanager
def a_router_process(redis_url, module="router"):
    (port,) = free_ports(1)
    variables = environment(REDIS_URL=redis_url, WARMBASE_PORT=str(port), HF_ENDPOINT="http://127.0.0.1:9")
    with subprocess.Popen(
        [sys.executable, "-m", module], env=variables, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process, port
        finally:
            process.kill()


@asynccontextmanager
async def a_worker_at_work(redis):
    worker = PixelWorker(redis)
    working = asyncio.create_task(worker.work())
    try:
        yield worker
    finally:
        worker.stopped = True
        await working


async def test_what_only_a_dead_router_waited_for_is_not_drawn_and_the_rest_is(
    redis, redis_url, base_queue, keys
):
    with a_router_process(redis_url) as (process, port):
        await asyncio.to_thread(wait_until_ready, port)
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            waiting = [asyncio.create_task(ask(http, url, BASE)) for _ in range(500)]
            for _ in range(3):
                assert (await ask(http, url, BASE, **LATER))[0] == 202

            async def all_wait():
                return (await base_queue.depth())[0] == 503

            await eventually(all_wait)
            process.send_signal(signal.SIGKILL)
            answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, aiohttp.ClientError) for answer in answers)

    for router in await redis.zrange(keys.routers, 0, -1):  # its silence has lasted long enough
        await redis.zadd(keys.routers, {router: 1})

    async def nothing_is_left():
        return await base_queue.depth() == (0, 0)

    async with a_worker_at_work(redis) as worker:
        await eventually(nothing_is_left)
    assert len(worker.jobs) == 3


@asynccontextmanager
async def a_request_to_a_router_that_stood_still(http, redis, redis_url, base_queue, keys, jobs=1):
    """Waiting requests whose router stops, and goes on once the queue has cancelled their jobs."""

    async def all_wait():
        return (await base_queue.depth())[0] == jobs

    async def it_seems_gone():
        seconds, _ = await redis.time()
        return all(until < seconds for _, until in await redis.zrange(keys.routers, 0, -1, withscores=True))

    async def all_are_cancelled():
        return await base_queue.depth() == (0, 0)

    with a_router_process(redis_url, "tests.impatient_router") as (process, port):
        await asyncio.to_thread(wait_until_ready, port)
        requests = [asyncio.create_task(ask(http, f"http://127.0.0.1:{port}", BASE)) for _ in range(jobs)]
        await eventually(all_wait)
        process.send_signal(signal.SIGSTOP)
        await eventually(it_seems_gone)
        async with a_worker_at_work(redis) as worker:
            await eventually(all_are_cancelled)
            assert worker.jobs == []
            yield process, requests, worker


async def test_a_router_that_stood_still_has_the_jobs_of_those_who_still_wait_drawn_once(
    http, redis, redis_url, base_queue, keys
):
    stood_still = a_request_to_a_router_that_stood_still(http, redis, redis_url, base_queue, keys, jobs=5)
    async with stood_still as (process, requests, worker):
        cancelled = await redis.keys(keys.job("*"))
        process.send_signal(signal.SIGCONT)
        answers = await asyncio.gather(*requests)

    assert [status for status, _ in answers] == [200] * 5
    assert sorted(keys.job(job.id).encode() for job in worker.jobs) == sorted(cancelled)


async def test_a_router_that_stood_still_past_the_deadline_says_so(http, redis, redis_url, base_queue, keys):
    stood_still = a_request_to_a_router_that_stood_still(http, redis, redis_url, base_queue, keys)
    async with stood_still as (process, (request,), worker):
        (job,) = await redis.keys(keys.job("*"))
        await redis.hset(job, "deadline", "1")
        process.send_signal(signal.SIGCONT)
        status, body = await request

    assert (status, worker.jobs) == (504, [])
    assert '"job_expired"' in body


async def test_a_full_queue_says_when_to_come_again_and_who_does_is_served(a_queue, claim_all):
    seconds, most, workers = 2.0, 20, 2
    queue = a_queue(max_waiting=most)
    params = some_params(steps=20, width=64, height=64)
    result = a_result(steps=20, width=64, height=64, timings=some_timings(swap=0.0, inference=seconds))
    for _ in range(3):  # from which it learns how long such a job takes
        await queue.enqueue(a_job(params=params))
    await claim_all(queue, result)
    jobs = [a_job(params=params) for _ in range(most)]
    for job in jobs:
        assert (await queue.enqueue(job)).outcome is Enqueued.ADDED

    late = a_job(params=params)
    refused = refusal(await queue.enqueue(late), late, workers)
    drained = most * seconds / workers
    assert drained * 0.8 <= refused.retry_after <= drained * 1.2
    await claim_all(queue, result)
    assert (await queue.enqueue(late)).outcome is Enqueued.ADDED


@pytest.fixture
def claim_all():
    """Claim and complete all that waits."""
    tokens = count()

    async def claim_all(queue, result):
        while lease := await claim_one(queue, WorkerId("worker"), f"token-{next(tokens)}"):
            assert await queue.complete(lease, result)

    return claim_all
