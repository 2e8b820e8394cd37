"""The users of `deploy/redis.md` on a real server: enough for the work, and no more."""

from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

import shared
from router.metrics import Metrics
from router.queues import Queues
from router.waiting import JobWaiter
from shared.jobs import JobStatus
from shared.pools import PoolDirectory
from shared.queue.keys import POOLS, BaseKeys
from shared.queue.queue import IdempotencyKey, JobQueue, LeaseState, QueueSettings
from shared.redis_client import blocking_client, command_client, pubsub_client
from shared.refs import base_tag
from shared.results.redis_store import RedisResults
from shared.server_check import ROUTER_COMMANDS, WORKER_COMMANDS, check_server
from tests.builders import BASE, WORKER, a_job, a_result, a_worker, an_error, some_progress
from tests.servers import Servers

GUIDE = Path(shared.__file__).parents[1] / "deploy" / "redis.md"
TAG = base_tag(BASE)
SETTINGS = QueueSettings(lease=60.0)
ADMIN = "user admin on >ADMIN_PASSWORD ~* &* +@all"
IN_A_CLUSTER = " +cluster|slots +command +readonly +asking"
NOT_IN_REDIS_7_0 = " +client|setinfo"


def users():
    (block,) = [part for part in GUIDE.read_text().split("```") if part.startswith("acl\n")]
    return block.splitlines()[1:]


def users_of_a_cluster():
    return [line + (IN_A_CLUSTER if " on " in line else "") for line in users()]


def users_of_redis(version):
    if version >= "7.2":
        return users()
    return [line.replace(NOT_IN_REDIS_7_0, "") for line in users()]


@pytest.fixture(scope="module", params=["one server", "cluster", "redis"])
def urls(request, tmp_path_factory):
    """The addresses for the router's and the worker's user."""
    binary = request.getfixturevalue("redis_binary") if request.param == "redis" else None
    servers = Servers(tmp_path_factory.mktemp("servers"), binary)
    try:
        match request.param:
            case "cluster":
                server, lines, scheme = servers.start_cluster(), users_of_a_cluster(), "redis+cluster"
            case "redis":
                server = servers.start('save ""')
                lines, scheme = users_of_redis(server.client.info()["redis_version"]), "redis"
            case _:
                server, lines, scheme = servers.start('save ""'), users(), "redis"
        for line in [ADMIN, *reversed(lines)]:
            server.client.execute_command("ACL", "SETUSER", *line.split()[1:])
        yield tuple(
            f"{scheme}://{who}:{who.upper()}_PASSWORD@127.0.0.1:{server.port}" for who in ("router", "worker")
        )
    finally:
        servers.kill_all()


@pytest.fixture
async def router(urls):
    async with command_client(urls[0]) as client:
        yield client


@pytest.fixture
async def worker(urls):
    async with command_client(urls[1]) as client:
        yield client


async def test_the_check_is_content_and_checks_all(router, worker):
    assert await check_server(router, ROUTER_COMMANDS) == ()
    assert await check_server(worker, WORKER_COMMANDS) == ()


async def test_both_do_all_their_work(urls, router, worker):
    queues = Queues(router, SETTINGS, Metrics(), RedisResults(router, ttl=60, most_bytes=1 << 20))
    asks, works = queues.of_base(BASE), JobQueue(worker, TAG, SETTINGS)
    await PoolDirectory(worker).announce(a_worker(), 60.0)
    assert len(await PoolDirectory(router).live()) == 1
    async with (
        pubsub_client(urls[0]) as subscriptions,
        blocking_client(urls[1], 2.0) as blocking,
        pubsub_client(urls[1]) as cancels,
        cancels.pubsub() as control,
        JobWaiter(queues, subscriptions),
    ):
        await control.subscribe(BaseKeys(TAG).control)
        await asks.attend("router")
        drawn, failed, cancelled = a_job(), a_job(), a_job()
        await asks.enqueue(drawn, IdempotencyKey(key="k", request="r"), "router")
        await asks.enqueue(failed)
        await asks.enqueue(cancelled)
        await works.wait_for_work(blocking, 1.0)
        leases = {}
        for number in range(3):
            for lease in (await works.claim(WORKER, f"t{number}", hot=["a"])).leases:
                leases[lease.job.id] = lease
        states = await works.heartbeat(WORKER, [some_progress(lease=lease) for lease in leases.values()])
        assert set(states.values()) == {LeaseState.HELD}
        blob = await RedisResults(worker, ttl=60, most_bytes=1 << 20).put(leases[drawn.id], b"an image")
        assert await works.complete(leases[drawn.id], a_result(blob=blob))
        assert await works.fail(leases[failed.id], an_error(), retry=False)
        assert await asks.cancel(cancelled.id)
        await works.release(leases[cancelled.id])
        assert await works.reap() == 0
        (record,) = await asks.records([drawn.id])
        assert record.status is JobStatus.SUCCEEDED
        assert await RedisResults(router, ttl=60, most_bytes=1 << 20).get(blob) == b"an image"
        assert await asks.depth() == (0, 0)
        await asks.oldest_wait()
    await PoolDirectory(worker).withdraw(a_worker())


FORBIDDEN = (
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("KEYS", "*"),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"),
    ("ACL", "LIST"),
    ("SHUTDOWN",),
    ("GET", "of-another-application"),
    ("SCRIPT", "FLUSH"),
)


@pytest.mark.parametrize("command", FORBIDDEN, ids=" ".join)
@pytest.mark.parametrize("who", ["router", "worker"])
async def test_neither_may_do_more(urls, router, worker, who, command):
    if "cluster" in urls[0]:
        pytest.skip("the rights are the same; redis-py would choose the nodes")
    client = {"router": router, "worker": worker}[who]
    with pytest.raises(NoPermissionError):
        await client.execute_command(*command)


async def test_a_router_cannot_pose_as_a_worker(router):
    with pytest.raises(NoPermissionError):
        await router.zadd(POOLS, {"a worker": 1})
    with pytest.raises(NoPermissionError):
        await router.bzpopmin(BaseKeys(TAG).wake, timeout=0.1)
