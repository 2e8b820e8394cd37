"""Redis connections, one pool per kind of use, with time-outs and retries said out loud.

The library's defaults re-send a command whose reply was lost, up to ten times; a queue must not. Every
script here is idempotent, so the command pool retries once on a broken connection and no more.

Whatever the address names, the client is used as one of a single server. That of a cluster is no `Redis`
by its class: it has the same commands, and sends each to the node that its key belongs to.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPipeline, ClusterPubSub
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from shared.errors import QueueUnavailable
from shared.redis_address import ManyServers, OneServer, Watched, parse_address

CONNECT_SECONDS = 0.8
"""Not tried again: below the second that a caller waits for an unreachable server."""

REPLY_SECONDS = 3.0
HEALTH_CHECK_SECONDS = 15.0
CONNECTIONS = 64
"""Per pool; more callers than that wait for a free one."""

NODE_CONNECTIONS = 1024
"""Per node of a cluster, where redis-py refuses more callers than that instead of letting them wait."""

UNAVAILABLE = (
    exceptions.ConnectionError,  # also: loading its data, wrong password, no free connection
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.NoPermissionError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
    exceptions.RedisClusterException,  # no node answers
    exceptions.ClusterError,  # one does, and knows no better than to ask again
)

SILENT = "the queue does not answer; try again in a moment"

UNAVAILABLE_REPLIES = re.compile(r"\b(UNBLOCKED|NOREPLICAS|MISCONF|BUSY)\b")
"""Replies for which redis-py has no class: fail-over, too few replicas, a full disk, a hanging script."""


def command_client(url: str) -> Redis:
    """Short commands and scripts: fails within a second when the server is gone."""
    return _client(url, reply=REPLY_SECONDS, retries=1)


def blocking_client(url: str, longest_wait: float) -> Redis:
    """Blocking waits of up to `longest_wait` seconds; the socket's time-out lies above it. No retries."""
    return _client(url, reply=longest_wait + REPLY_SECONDS, retries=0)


def pubsub_client(url: str) -> Redis:
    """Subscriptions: no read time-out; TCP's keepalive, which redis-py sets, finds a connection that died."""
    return _client(url, reply=None, retries=0)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn what redis-py raises when the server cannot serve now into `QueueUnavailable`.

    Anything else that it raises is a mistake of ours, and stays what it is.
    """
    try:
        yield
    except (exceptions.RedisError, exceptions.RedisClusterException) as error:
        if isinstance(error, UNAVAILABLE) or UNAVAILABLE_REPLIES.search(str(error)):
            # The cause names the server, which is for the log; the message is for the caller.
            raise QueueUnavailable(SILENT) from error
        raise


def one_round_trip(redis: Redis) -> Any:  # noqa: ANN401 - the library types queued commands as awaitable
    """Return a pipeline whose commands are sent together by `execute`, and are no transaction."""
    client: object = redis
    if isinstance(client, RedisCluster):
        return _ClusterRoundTrip(client)  # type: ignore[abstract]
    return redis.pipeline(transaction=False)


class _ClusterRoundTrip(ClusterPipeline):
    """One round trip to each node concerned. redis-py leaves TIME out, because it has no key."""

    def time(self, **_options: Any) -> Any:  # noqa: ANN401 - as in `one_round_trip`
        return self.execute_command("TIME", target_nodes=self.cluster_client.get_default_node())


class _Cluster(RedisCluster):
    """A client of a cluster that, as that of one server does, connects with its first command."""

    async def __aenter__(self) -> Self:
        await self._increment_usage()
        return self

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> ClusterNode:
        """Return the node; redis-py goes on with None (redis/redis-py#4015).

        A node without slots is not among those that are known. While its first slot is being moved there,
        the other node sends clients on to it.
        """
        node = super().get_node(host, port, node_name)
        if node is None:
            raise exceptions.ClusterError("a slot is being moved to a node that has none yet")
        return node

    def pubsub(self, *_node: Any, **options: Any) -> ClusterPubSub:  # noqa: ANN401
        return _ClusterSubscription(self, **options)


class _ClusterSubscription(ClusterPubSub):
    """A subscription at one node: what is published at any goes to all."""

    async def execute_command(self, *words: Any, **options: Any) -> Any:  # noqa: ANN401
        _ = await self.cluster.initialize()
        return await super().execute_command(*words, **options)


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the primary that the Sentinels name; more callers than connections wait."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:  # the end; without them, the primary is another one
            await self.sentinel_manager.aclose()


def _client(url: str, *, reply: float | None, retries: int) -> Redis:
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": reply,
        "health_check_interval": HEALTH_CHECK_SECONDS,
        # not on a time-out: what runs long for the server would only run again. A cluster's client has its
        # own mind, and does; every script may come twice.
        "retry": _retry(retries),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        "decode_responses": False,
    }
    match parse_address(url):
        case OneServer(url=url):
            pool = BlockingConnectionPool.from_url(
                url, max_connections=CONNECTIONS, timeout=REPLY_SECONDS, **options
            )
            return Redis.from_pool(pool)
        case Watched() as address:
            return Redis.from_pool(_sentinel_pool(address, options))
        case ManyServers() as address:
            return _cluster(address, options)


def _sentinel_pool(address: Watched, options: dict[str, Any]) -> _SentinelPool:
    servers, tls = _of_servers(address.url)
    sentinels: dict[str, Any] = dict(address.sentinel_options)
    if tls:  # one authority signs for all
        sentinels |= {"ssl": True} | {name: servers[name] for name in servers if name.startswith("ssl_")}
    manager = Sentinel(  # type: ignore[no-untyped-call]
        address.sentinels,
        sentinel_kwargs={
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": CONNECT_SECONDS,
            "retry": _retry(0),
            **sentinels,
        },
    )
    return _SentinelPool(  # type: ignore[no-untyped-call]
        address.service,
        manager,
        ssl=tls,
        max_connections=CONNECTIONS,
        timeout=REPLY_SECONDS,
        **options,
        **servers,
    )


def _cluster(address: ManyServers, options: dict[str, Any]) -> Redis:
    servers, tls = _of_servers(address.url)
    cluster = _Cluster(
        startup_nodes=[ClusterNode(host, port) for host, port in address.nodes],
        max_connections=NODE_CONNECTIONS,
        # else every fifth slot that has moved closes the connections of all callers, also those being opened
        reinitialize_steps=0,
        ssl=tls,
        **options,
        **servers,
    )
    return cast("Redis", cluster)


def _of_servers(url: str) -> tuple[dict[str, Any], bool]:
    """Return the options of an address that names its hosts apart, and whether it asks for TLS."""
    options: dict[str, Any] = dict(parse_url(url))
    del options["host"]
    return options, options.pop("connection_class", None) is SSLConnection


def _retry(retries: int) -> Retry:
    return Retry(NoBackoff(), retries, supported_errors=(exceptions.ConnectionError,))
