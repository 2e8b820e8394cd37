"""The queue behind every kind of address, on real servers: TCP, a Unix socket, Sentinel, a cluster.

On Valkey, and where the servers differ most also on Redis.
"""

import asyncio
import time

import pytest

from router.metrics import Metrics
from router.queues import Queues
from router.waiting import JobWaiter
from shared.errors import QueueUnavailable
from shared.jobs import JobStatus
from shared.pools import PoolDirectory
from shared.queue.keys import BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import QueueSettings
from shared.redis_client import blocking_client, command_client, pubsub_client, translate_errors
from shared.refs import base_tag
from shared.results.redis_store import RedisResults
from tests.builders import BASE, WORKER, a_job, a_result, a_worker
from tests.servers import Servers, free_port, until

TAG = base_tag(BASE)
LONG = 30.0
GAP = 15.0
"""Seconds that a fail-over may take on a busy machine."""


@pytest.fixture
def servers(tmp_path):
    servers = Servers(tmp_path)
    yield servers
    servers.kill_all()


@pytest.fixture
def redis_servers(tmp_path, redis_binary):
    servers = Servers(tmp_path, redis_binary)
    yield servers
    servers.kill_all()


@pytest.fixture
def watched(servers):
    """A primary, a replica that has caught up, a Sentinel that knows both, and the address."""
    primary = servers.start('save ""')
    replica = servers.start('save ""', f"replicaof 127.0.0.1 {primary.port}")
    until(lambda: replica.client.info("replication")["master_link_status"] == "up")
    sentinel = servers.start_sentinel(primary)
    until(lambda: len(sentinel.client.sentinel_slaves("queue")) == 1)
    return primary, replica, f"redis+sentinel://127.0.0.1:{sentinel.port}/queue/0"


@pytest.fixture(params=["tcp", "tcp-redis", "unix", "sentinel", "cluster", "cluster-redis"])
def url(request, tmp_path):
    kind, _, redis = request.param.partition("-")
    servers = request.getfixturevalue("redis_servers" if redis else "servers")
    match kind:
        case "tcp":
            return servers.start('save ""').url
        case "unix":
            servers.start('save ""', f"unixsocket {tmp_path}/s")
            return f"unix://{tmp_path}/s?db=0"
        case "sentinel":
            return request.getfixturevalue("watched")[2]
        case _:
            # the second host is not there: any one is enough
            node = servers.start_cluster()
            return f"redis+cluster://127.0.0.1:{node.port},127.0.0.1:{free_port()}"


async def serve_one(url):
    """Be a worker for one job: wait for it, claim it, keep its image, complete it."""
    async with command_client(url) as commands, blocking_client(url, 2.0) as blocking:
        queue = JobQueue(commands, TAG, QueueSettings(lease=60.0))
        for n in range(1000):
            claim = await queue.claim(WORKER, f"token-{n}")
            if claim.leases:
                break
            await queue.wait_for_work(blocking, 1.0)
        (lease,) = claim.leases
        blob = await RedisResults(commands, ttl=60, most_bytes=1 << 20).put(lease, b"an image")
        assert await queue.complete(lease, a_result(blob=blob))
        return lease.job.id


async def test_a_job_goes_its_way(url):
    job = a_job(timeout=LONG)
    async with command_client(url) as commands, pubsub_client(url) as subscriptions:
        queues = Queues(
            commands, QueueSettings(), Metrics(), RedisResults(commands, ttl=60, most_bytes=1 << 20)
        )
        # so slow a sweep that it is the channel which tells of the end
        async with JobWaiter(queues, subscriptions, sweep_every=LONG) as waiter:
            await subscribed(commands, url)
            work = asyncio.create_task(serve_one(url))
            begin = time.monotonic()
            record = await waiter.run(job, 1)
            assert record.status is JobStatus.SUCCEEDED
            assert time.monotonic() - begin < LONG / 2
            assert await work == job.id
        assert await RedisResults(commands, ttl=60, most_bytes=1 << 20).get(record.result.blob) == b"an image"
        queue = queues.of_base(BASE)
        assert await queue.depth() == (0, 0)
        assert await queue.oldest_wait() == 0.0


async def test_the_wait_of_a_job_is_known(url):
    async with command_client(url) as commands:
        queue = JobQueue(commands, TAG, QueueSettings())
        await queue.enqueue(a_job())
        await asyncio.sleep(0.05)
        assert 0.0 < await queue.oldest_wait() < LONG


async def test_workers_are_found(url):
    async with command_client(url) as commands:
        pools = PoolDirectory(commands)
        await pools.announce(a_worker(), LONG)
        assert [pool.workers for pool in await pools.live()] == [(a_worker(),)]
        await pools.withdraw(a_worker())
        assert await pools.live() == ()


async def test_cancels_are_heard(url):
    channel = BaseKeys(TAG).control
    async with command_client(url) as commands, pubsub_client(url) as subscriptions:
        queue = JobQueue(commands, TAG, QueueSettings())
        async with subscriptions.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(channel)
            job = a_job()
            await queue.enqueue(job)
            await queue.claim(WORKER, "token")
            await queue.cancel(job.id)
            heard = [await subscription.get_message(timeout=2.0) for _ in range(2)]
        assert job.id.encode() in [message["data"] for message in heard if message]


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:{port}",
        "redis+sentinel://127.0.0.1:{port}/queue",
        "redis+cluster://127.0.0.1:{port}",
    ],
)
async def test_nobody_there_is_an_outage_within_a_second(url):
    async with command_client(url.format(port=free_port())) as commands:
        for _ in range(2):
            begin = time.monotonic()
            with pytest.raises(QueueUnavailable):
                await JobQueue(commands, TAG, QueueSettings()).enqueue(a_job())
            assert time.monotonic() - begin < 1.5


async def test_a_service_that_the_sentinels_do_not_know_is_an_outage(watched):
    _, _, url = watched
    async with command_client(url.replace("/queue", "/other")) as commands:
        with pytest.raises(QueueUnavailable):
            await JobQueue(commands, TAG, QueueSettings()).enqueue(a_job())


async def test_the_queue_goes_on_after_a_fail_over(watched):
    primary, replica, url = watched
    first, second = a_job(timeout=LONG), a_job(timeout=LONG)
    async with command_client(url) as commands, pubsub_client(url) as subscriptions:
        queues = Queues(
            commands, QueueSettings(), Metrics(), RedisResults(commands, ttl=60, most_bytes=1 << 20)
        )
        async with JobWaiter(queues, subscriptions, patience=LONG) as waiter:
            waiting = asyncio.create_task(waiter.run(first, 1))
            await asyncio.sleep(0.5)
            assert await queues.of_base(BASE).depth() == (1, 0)
            primary.kill()
            begin = time.monotonic()
            queue = JobQueue(commands, TAG, QueueSettings())
            while True:
                try:
                    await queue.enqueue(second)
                    break
                except QueueUnavailable:
                    assert time.monotonic() - begin < GAP
                    await asyncio.sleep(0.05)
            assert replica.role == "master"
            assert {await serve_one(url), await serve_one(url)} == {first.id, second.id}
            assert (await waiting).status is JobStatus.SUCCEEDED


async def test_a_demoted_primary_is_left(watched, servers):
    primary, replica, url = watched
    async with command_client(url) as commands:
        queue = JobQueue(commands, TAG, QueueSettings())
        await queue.enqueue(a_job())
        servers.fail_over(next(server for server in servers.all if str(server.port) in url))
        until(lambda: replica.role == "master")
        until(lambda: primary.role == "slave")
        deadline = time.monotonic() + GAP
        while True:
            try:
                await queue.enqueue(a_job())
                break
            except QueueUnavailable:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        assert int(replica.client.zcard(BaseKeys(TAG).ready)) >= 1


async def test_sentinels_have_a_password_of_their_own(servers):
    primary = servers.start('save ""', "requirepass of-the-servers")
    sentinel = servers.start(
        f"sentinel monitor queue 127.0.0.1 {primary.port} 1",
        "sentinel auth-pass queue of-the-servers",
        "requirepass of-the-sentinels",
        mode=("--sentinel",),
    )
    url = f"redis+sentinel://:of-the-servers@127.0.0.1:{sentinel.port}/queue"
    async with command_client(f"{url}?sentinel_password=of-the-sentinels") as commands:
        assert await commands.ping()
    async with command_client(url) as commands:
        with pytest.raises(QueueUnavailable), translate_errors():
            await commands.ping()


async def subscribed(commands, url):
    """Wait until the waiter's subscription stands, so that its first sweep is over as well."""
    for _ in range(200):
        if await commands.execute_command("PUBSUB NUMPAT", **target(url)):
            return
        await asyncio.sleep(0.02)
    pytest.fail("nobody subscribed")


def target(url):
    return {"target_nodes": "random"} if "cluster" in url else {}
