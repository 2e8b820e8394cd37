"""The server in trouble: without its scripts, without memory, without its role, without a trace."""

import asyncio

import pytest

from deploy import embedded_valkey
from shared.errors import NoRoom, QueueUnavailable
from shared.jobs import JobStatus
from shared.queue.queue import JobQueue
from shared.queue.terms import Enqueued, LeaseState, QueueSettings
from shared.redis_client import command_client
from shared.refs import base_tag
from shared.results.redis_store import RedisResults
from tests.builders import BASE, WORKER, a_job, a_result, an_error, some_progress
from tests.servers import valkey
from tests.steps import claim_one


@pytest.fixture
async def no_memory(redis):
    """The server has reached its limit; it refuses what needs memory."""

    async def reach_limit():
        await redis.config_set("maxmemory", 1)

    yield reach_limit
    await redis.config_set("maxmemory", 0)


async def test_a_server_that_forgot_the_scripts_is_given_them_again(queue, redis, claim):
    job = a_job()
    steps = [
        lambda: queue.enqueue(job),
        claim,
        lambda: queue.heartbeat(WORKER, []),
        lambda: queue.cancel(job.id),
        queue.reap,
    ]
    for step in steps:
        await redis.script_flush()
        await step()


async def test_scripts_that_are_flushed_under_load_fail_nothing(queue, redis):
    async def flush():
        for _ in range(50):
            await redis.script_flush()

    async def enqueue():
        return [await queue.enqueue(a_job()) for _ in range(50)]

    _, *added = await asyncio.gather(flush(), *(enqueue() for _ in range(4)))
    assert all(state.outcome is Enqueued.ADDED for states in added for state in states)
    assert await queue.depth() == (200, 0)


async def test_without_memory_nothing_is_added(queue, no_memory):
    await no_memory()
    with pytest.raises(QueueUnavailable):
        await queue.enqueue(a_job())
    assert await queue.depth() == (0, 0)


async def test_without_memory_jobs_still_run_to_their_end(queue, claim, run_out, record_of, no_memory):
    jobs = [a_job() for _ in range(6)]
    for job in jobs:
        await queue.enqueue(job)
    reaped = await claim()
    await run_out(reaped)
    await no_memory()
    completed, failed, released = [await claim() for _ in range(3)]
    assert await queue.heartbeat(WORKER, [some_progress(lease=completed)]) == {
        completed.job.id: LeaseState.HELD
    }
    assert await queue.complete(completed, a_result())
    assert await queue.fail(failed, an_error(), retry=False)
    assert await queue.release(released)
    assert await queue.reap() == 1
    assert (await record_of(reaped.job.id)).status is JobStatus.QUEUED
    assert (await queue.cancel(jobs[5].id)).status is JobStatus.CANCELLED
    assert await queue.depth() == (3, 0)


async def test_without_memory_no_image_is_kept(redis, run_a_job, no_memory):
    lease = await run_a_job()
    await no_memory()
    with pytest.raises(NoRoom):
        await RedisResults(redis, ttl=60, most_bytes=1 << 20).put(lease, b"image")


async def test_a_replica_is_no_queue(queue, redis):
    await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(QueueUnavailable):
            await queue.enqueue(a_job())
    finally:
        await redis.execute_command("REPLICAOF", "NO", "ONE")


async def test_a_wrong_password_is_unavailable_and_not_told(redis_url):
    async with command_client(redis_url.replace("@", "-wrong@")) as client:
        with pytest.raises(QueueUnavailable) as caught:
            await JobQueue(client, base_tag(BASE), QueueSettings()).depth()
    assert "wrong" not in caught.value.message


async def test_a_user_without_the_right_is_unavailable(queue, redis, redis_url):
    await redis.execute_command("ACL", "SETUSER", "reader", "on", ">reader", "~*", "+get", "+select")
    address = redis_url.split("@")[1]
    try:
        async with command_client(f"redis://reader:reader@{address}") as client:
            with pytest.raises(QueueUnavailable):
                await JobQueue(client, base_tag(BASE), QueueSettings()).enqueue(a_job())
    finally:
        await redis.execute_command("ACL", "DELUSER", "reader")


CALLS = {
    "enqueue": lambda queue, _: queue.enqueue(a_job()),
    "claim": lambda queue, _: claim_one(queue, WORKER, "token"),
    "records": lambda queue, _: queue.records([a_job().id]),
    "depth": lambda queue, _: queue.depth(),
    "oldest_wait": lambda queue, _: queue.oldest_wait(),
    "wait_for_work": lambda queue, client: queue.wait_for_work(client, 0.1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_server_that_is_gone_is_unavailable(redis_server, call):
    server = embedded_valkey.start(valkey())
    async with command_client(server.url) as client:
        queue = JobQueue(client, base_tag(BASE), QueueSettings())
        await queue.depth()
        server.stop()
        with pytest.raises(QueueUnavailable):
            await call(queue, client)
