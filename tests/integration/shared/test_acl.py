"""The users of `deploy/redis.md` on a real server: enough for the work, and no more."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from redis.exceptions import NoPermissionError

import shared
from deploy.queue_command import main
from router.body import SourcePicture
from router.leftovers import Leftovers
from router.metrics import Metrics
from router.queues import Queues
from router.waiting import JobWaiter
from shared.jobs import JobStatus
from shared.pools import PoolDirectory
from shared.queue.keys import POOLS, BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import IdempotencyKey, LeaseState, Mode, QueueSettings
from shared.redis_client import blocking_client, command_client, pubsub_client
from shared.refs import base_tag
from shared.results.redis_store import RedisResults
from shared.results.store import source_name
from shared.server_check import ROUTER_COMMANDS, WORKER_COMMANDS, check_server
from tests.builders import BASE, WORKER, a_job, a_result, a_worker, an_error, some_progress
from tests.servers import Servers
from tests.steps import claim_one

GUIDE = Path(shared.__file__).parents[1] / "deploy" / "redis.md"
TAG = base_tag(BASE)
SETTINGS = QueueSettings(lease=60.0)
ADMIN = "user admin on >ADMIN_PASSWORD ~* &* +@all"
WHO = ("router", "worker", "operator", "autoscaler")
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
def served(request, tmp_path_factory):
    """A server with its users, and their addresses by name."""
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
        yield server, {who: f"{scheme}://{who}:{who.upper()}_PASSWORD@127.0.0.1:{server.port}" for who in WHO}
    finally:
        servers.kill_all()


@pytest.fixture
def urls(served):
    """The users' addresses of an empty server."""
    server, addresses = served
    with redis.Redis(port=server.port, username="admin", password="ADMIN_PASSWORD") as admin:
        admin.flushall()
    return addresses


@pytest.fixture
async def router(urls):
    async with command_client(urls["router"]) as client:
        yield client


@pytest.fixture
async def worker(urls):
    async with command_client(urls["worker"]) as client:
        yield client


@pytest.fixture
async def operator(urls):
    async with command_client(urls["operator"]) as client:
        yield client


@pytest.fixture
async def autoscaler(urls):
    async with command_client(urls["autoscaler"]) as client:
        yield client


async def test_the_check_is_content_and_checks_all(router, worker):
    assert await check_server(router, ROUTER_COMMANDS) == ()
    assert await check_server(worker, WORKER_COMMANDS) == ()


async def test_router_and_worker_do_all_their_work(urls, router, worker):
    queues = Queues(router, SETTINGS, Metrics(), RedisResults(router, ttl=60, most_bytes=1 << 20))
    asks, works = queues.of_base(BASE), JobQueue(worker, TAG, SETTINGS)
    await PoolDirectory(worker).announce(a_worker(), 60.0)
    assert len(await PoolDirectory(router).live()) == 1
    async with (
        pubsub_client(urls["router"]) as subscriptions,
        blocking_client(urls["worker"], 2.0) as blocking,
        pubsub_client(urls["worker"]) as cancels,
        cancels.pubsub() as control,
        JobWaiter(queues, subscriptions),
    ):
        await control.subscribe(BaseKeys(TAG).control)
        await asks.attend("router")
        drawn, failed, cancelled = a_job(), a_job(), a_job()
        picture = SourcePicture(data=b"a picture", digest="ab" * 32)
        await queues.keep_source(drawn, picture, 1)
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
        results = RedisResults(worker, ttl=60, most_bytes=1 << 20)
        assert await results.get(source_name(BASE, picture.digest)) == picture.data
        blob = await results.put(leases[drawn.id], b"an image")
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
    left = Leftovers(PoolDirectory(router), queues)
    assert await PoolDirectory(router).left() == [TAG]
    assert [await left.end_overdue() for _ in range(2)] == [0, 0]


async def test_an_operator_does_all_of_the_command(urls, router, worker, capsys):
    def queue(*arguments):
        code = main([*arguments, "--redis", urls["operator"]], {})
        return code, capsys.readouterr()

    asks, works = JobQueue(router, TAG, SETTINGS), JobQueue(worker, TAG, replace(SETTINGS, max_attempts=1))
    await PoolDirectory(worker).announce(a_worker(), 60.0)
    jobs = [a_job(), a_job()]
    for job in jobs:
        await asks.enqueue(job)
        lease = await claim_one(works, WORKER, job.id)
        await works.fail(lease, an_error(), retry=True)
    for arguments in (
        ["list"],
        ["dead", BASE],
        ["show", jobs[0].id],
        ["retry", jobs[0].id],
        ["drop", "--all", BASE],
        ["pause", BASE],
        ["key", BASE],
    ):
        code, said = await asyncio.to_thread(queue, *arguments)
        assert (code, said.err) == (0, ""), arguments
    overview = await asks.overview()
    assert (overview.mode, overview.waiting, overview.given_up) == (Mode.PAUSED, 1, 0)


COUNT = """
local kind = redis.call('type', KEYS[1]).ok
return redis.call(({zset = 'zcard', none = 'llen'})[kind], KEYS[1])
"""
"""What KEDA's redis trigger runs, as far as it concerns a sorted set that may be missing."""


async def test_an_autoscaler_counts_what_waits(router, autoscaler):
    key = BaseKeys(TAG).ready
    assert await autoscaler.eval(COUNT, 1, key) == 0
    await JobQueue(router, TAG, SETTINGS).enqueue(a_job())
    assert await autoscaler.eval(COUNT, 1, key) == 1


async def test_an_autoscaler_can_neither_change_nor_read_a_job(autoscaler):
    keys = BaseKeys(TAG)
    for words in (("ZADD", keys.ready, 1, "job"), ("DEL", keys.ready), ("HGETALL", keys.job("job"))):
        with pytest.raises(NoPermissionError):
            await autoscaler.execute_command(*words)
    with pytest.raises(NoPermissionError):
        await autoscaler.eval(COUNT, 1, keys.active)


async def test_an_operator_sees_no_image_and_poses_as_no_worker(operator):
    keys = BaseKeys(TAG)
    for words in (("GET", keys.blob("blob")), ("ZADD", POOLS, 1, "a worker"), ("PUBLISH", keys.done, "job")):
        with pytest.raises(NoPermissionError):
            await operator.execute_command(*words)


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
@pytest.mark.parametrize("who", WHO)
async def test_none_may_do_more(urls, who, command):
    if "cluster" in urls[who]:
        pytest.skip("the rights are the same; redis-py would choose the nodes")
    async with command_client(urls[who]) as client:
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command)


async def test_a_router_cannot_pose_as_a_worker(router):
    with pytest.raises(NoPermissionError):
        await router.zadd(POOLS, {"a worker": 1})
    with pytest.raises(NoPermissionError):
        await router.bzpopmin(BaseKeys(TAG).wake, timeout=0.1)
