"""Cancels as they are published, so that they take effect before the next heartbeat."""

import asyncio
from collections.abc import Callable

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
    while True:
        for pause in backoff(FIRST_PAUSE, LONGEST_PAUSE):
            try:
                await _follow(redis, channel, on_cancel)
                break
            except QueueUnavailable:
                await asyncio.sleep(pause)


async def _follow(redis: Redis, channel: str, on_cancel: Callable[[JobId], None]) -> None:
    with translate_errors():
        async with redis.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(channel)
            async for message in subscription.listen():
                if message["type"] == "message":
                    on_cancel(JobId(message["data"].decode()))
