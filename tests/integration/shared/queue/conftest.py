"""Steps that many tests of the queue take, and time that passes when the test says so."""

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

import pytest
from redis.asyncio import Redis

from shared.jobs import Job, JobId, JobRecord
from shared.queue.keys import BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import Lease
from shared.redis_client import pubsub_client
from tests.builders import WORKER, a_job
from tests.steps import claim_one


@pytest.fixture
def claim(queue: JobQueue) -> Callable[..., Awaitable[Lease]]:
    """Claim with a fresh token; fail if nothing waits."""
    tokens = count()

    async def claim(worker=WORKER, queue=queue) -> Lease:
        lease = await claim_one(queue, worker, f"token-{next(tokens)}")
        assert lease is not None
        return lease

    return claim


@pytest.fixture
def run_a_job(queue: JobQueue, claim: Callable[..., Awaitable[Lease]]) -> Callable[..., Awaitable[Lease]]:
    """Enqueue a fresh job on the empty queue and claim it."""

    async def run(**changes) -> Lease:
        job = a_job(**changes)
        await queue.enqueue(job)
        lease = await claim()
        assert lease.job == job
        return lease

    return run


@pytest.fixture
def record_of(queue: JobQueue) -> Callable[[JobId], Awaitable[JobRecord]]:
    """Read a job's record; fail if there is none."""

    async def read(job_id: JobId) -> JobRecord:
        (record,) = await queue.records([job_id])
        assert record is not None
        return record

    return read


@pytest.fixture
def run_out(redis: Redis, keys: BaseKeys) -> Callable[[Lease], Awaitable[None]]:
    """Let a lease's time be over."""

    async def run_out(lease: Lease) -> None:
        assert await redis.zadd(keys.active, {lease.job.id: 1}, xx=True, ch=True) == 1

    return run_out


@pytest.fixture
def pass_timeout(redis: Redis, keys: BaseKeys) -> Callable[[Job], Awaitable[None]]:
    """Let a job's timeout have passed."""

    async def pass_timeout(job: Job) -> None:
        assert await redis.hset(keys.job(job.id), "deadline", "1") == 0
        await redis.zadd(keys.deadlines, {job.id: 1}, xx=True)

    return pass_timeout


@pytest.fixture
def listen(redis_url: str):
    """Subscribe to a channel: `async with listen(name) as next_hint: await next_hint()`."""

    @asynccontextmanager
    async def listen(channel: str):
        async with pubsub_client(redis_url) as client, client.pubsub() as subscription:
            await subscription.subscribe(channel)
            assert (await subscription.get_message(timeout=10))["type"] == "subscribe"

            async def next_hint() -> str:
                message = await subscription.get_message(timeout=10)
                assert message is not None, "no hint came"
                return message["data"].decode()

            yield next_hint

    return listen


@pytest.fixture
def model_examples(pytestconfig: pytest.Config) -> int:
    """How many histories of the queue are compared with the model."""
    return pytestconfig.getoption("--model-examples")
