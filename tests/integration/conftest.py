"""Clients and queues on the real server."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.queue.keys import BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import QueueSettings
from shared.redis_client import blocking_client, command_client
from shared.refs import base_tag
from tests.builders import BASE

LONGEST_WAIT = 2.0


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A command client of the empty server."""
    client = command_client(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def blocking(redis_url: str) -> AsyncIterator[Redis]:
    """A client for waits of up to `LONGEST_WAIT` seconds."""
    client = blocking_client(redis_url, LONGEST_WAIT)
    yield client
    await client.aclose()


@pytest.fixture
def keys() -> BaseKeys:
    """The keys of `BASE`."""
    return BaseKeys(base_tag(BASE))


@pytest.fixture
def a_queue(redis: Redis) -> Callable[..., JobQueue]:
    """Make the queue of `BASE`, with settings changed where the test needs it."""

    def make(**settings: Any) -> JobQueue:
        return JobQueue(redis, base_tag(BASE), QueueSettings(**settings))

    return make


@pytest.fixture
def queue(a_queue: Callable[..., JobQueue]) -> JobQueue:
    """The queue of `BASE`, with leases that no test outlives."""
    return a_queue(lease=600.0)
