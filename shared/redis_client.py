"""Redis connections, one pool per kind of use, with time-outs and retries said out loud.

The library's defaults re-send a command whose reply was lost, up to ten times; a queue must not. Every
script here is idempotent, so the command pool retries once on a broken connection and no more.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from shared.errors import QueueUnavailable

CONNECT_SECONDS = 0.8
"""Not tried again: below the second that a caller waits for an unreachable server."""

REPLY_SECONDS = 3.0
HEALTH_CHECK_SECONDS = 15.0
CONNECTIONS = 64
"""Per pool; more callers than that wait for a free one."""

UNAVAILABLE = (
    exceptions.ConnectionError,  # also: loading its data, wrong password, no free connection
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.NoPermissionError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
)

UNAVAILABLE_REPLIES = re.compile(r"\b(UNBLOCKED|NOREPLICAS|MISCONF|BUSY)\b")
"""Replies for which redis-py has no class: fail-over, too few replicas, a full disk, a hanging script."""


def command_client(url: str) -> Redis:
    """Short commands and scripts: fails within a second when the server is gone."""
    return _client(url, reply=REPLY_SECONDS, retries=1)


def blocking_client(url: str, longest_wait: float) -> Redis:
    """Blocking waits of up to `longest_wait` seconds; the socket's time-out lies above it. No retries."""
    return _client(url, reply=longest_wait + REPLY_SECONDS, retries=0)


def pubsub_client(url: str) -> Redis:
    """Subscriptions: no read time-out, kept alive by health checks."""
    return _client(url, reply=None, retries=0)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn what redis-py raises when the server cannot serve now into `QueueUnavailable`.

    Anything else that it raises is a mistake of ours, and stays what it is.
    """
    try:
        yield
    except exceptions.RedisError as error:
        if isinstance(error, UNAVAILABLE) or UNAVAILABLE_REPLIES.search(str(error)):
            # The cause names the server, which is for the log; the message is for the caller.
            raise QueueUnavailable("the queue does not answer; try again in a moment") from error
        raise


def one_round_trip(redis: Redis) -> Any:  # noqa: ANN401 - the library types queued commands as awaitable
    """Return a pipeline whose commands are sent together by `execute`, and are no transaction."""
    return redis.pipeline(transaction=False)


def _client(url: str, *, reply: float | None, retries: int) -> Redis:
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=REPLY_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=reply,
        health_check_interval=HEALTH_CHECK_SECONDS,
        # not on a time-out: what runs long for the server would only run again
        retry=Retry(NoBackoff(), retries, supported_errors=(exceptions.ConnectionError,)),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        decode_responses=False,
    )
    return Redis.from_pool(pool)
