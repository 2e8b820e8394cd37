"""Cancels as they are published, so that they take effect before the next heartbeat."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis

from shared.errors import QueueUnavailable
from shared.jobs import JobId
from shared.redis_client import translate_errors
from worker.backoff import backoff

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0


async def follow_cancels(redis: Redis, channel: str, on_cancel: Callable[[JobId], None]) -> None:
    """Call `on_cancel` for each job that is cancelled, until cancelled itself.

    What is published while the connection is down is missed: the next heartbeat tells it.

    Args:
        redis: a client for subscriptions.
        channel: the base's control channel, which carries job ids.
        on_cancel: told each id.
    """
    pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE)

    def hear(message: Mapping[str, Any]) -> None:
        nonlocal pauses
        pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE)  # the server answers: it has confirmed the subscription
        if message["type"] == "message":
            on_cancel(JobId(message["data"].decode()))

    while True:
        with suppress(QueueUnavailable):
            await _follow(redis, channel, hear)
        await asyncio.sleep(next(pauses))


async def _follow(redis: Redis, channel: str, hear: Callable[[Mapping[str, Any]], None]) -> None:
    with translate_errors():
        async with redis.pubsub() as subscription:
            await subscription.subscribe(channel)
            async for message in subscription.listen():
                hear(message)
