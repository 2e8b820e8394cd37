"""The check on real servers: good ones, wrong ones, and such that tell little."""

import pytest

from shared.errors import QueueUnavailable
from shared.redis_client import command_client
from shared.server_check import (
    ROUTER_COMMANDS,
    WORKER_COMMANDS,
    ServerFacts,
    WrongServer,
    check_server,
    problems_of,
    unknowns_of,
)
from tests.servers import Servers, free_port, until

SECRET = "hunter2"


@pytest.fixture
def servers(tmp_path):
    servers = Servers(tmp_path)
    yield servers
    servers.kill_all()


@pytest.fixture
def server(servers):
    return servers.start('save ""')


async def checked(url, commands=WORKER_COMMANDS):
    async with command_client(url) as redis:
        return await check_server(redis, commands)


async def refused(url, commands=WORKER_COMMANDS):
    with pytest.raises(WrongServer) as caught:
        await checked(url, commands)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def as_user(server, *rules):
    server.client.execute_command("ACL", "SETUSER", "app", "reset", "on", f">{SECRET}", *rules)
    return server.url.replace("//", f"//app:{SECRET}@")


@pytest.mark.parametrize("commands", [ROUTER_COMMANDS, WORKER_COMMANDS])
async def test_a_server_as_it_comes_is_good(server, commands):
    assert await checked(server.url, commands) == ()


async def test_a_server_that_evicts_is_refused(server):
    server.client.config_set("maxmemory", "100mb")
    server.client.config_set("maxmemory-policy", "allkeys-lru")
    message = await refused(server.url)
    assert "allkeys-lru" in message
    assert "set it to noeviction" in message


async def test_without_a_limit_the_policy_does_no_harm(server):
    server.client.config_set("maxmemory-policy", "volatile-ttl")
    assert await checked(server.url) == ()


async def test_a_replica_is_refused(servers, server):
    replica = servers.start('save ""', f"replicaof 127.0.0.1 {server.port}")
    until(lambda: replica.client.info("replication")["master_link_status"] == "up")
    assert "replica" in await refused(replica.url)


async def test_a_replica_that_says_little_is_refused_too(servers, server):
    replica = servers.start('save ""', f"replicaof 127.0.0.1 {server.port}")
    assert "replica" in await refused(as_user(replica, "~*", "&*", "+@all", "-info"))


async def test_a_wrong_password_is_no_outage(servers):
    server = servers.start('save ""', "requirepass right")
    assert "the password" in await refused(server.url.replace("//", f"//:{SECRET}@"))
    assert "the password" in await refused(server.url)


async def test_a_user_without_info_is_told_what_was_not_checked(server):
    (unchecked,) = await checked(as_user(server, "~*", "&*", "+@all", "-info", "-config"))
    assert "maxmemory-policy" in unchecked


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        (("~*", "&*", "+@all", "-bzpopmin"), "BZPOPMIN"),
        (("~*", "&*", "+@all", "-eval"), "EVAL "),
        (("~*", "&*", "+@all", "-evalsha"), "EVALSHA"),
        (("~*", "&*", "+@all", "-hset"), "HSET"),
        (("~*", "&*", "+@all", "-ping"), "PING"),
        (("~*", "+@all"), "SUBSCRIBE warmbase:"),
        (("~warmbase:3:*", "&*", "+@all"), "ZADD warmbase:pools"),
        (("~warmbase:pools", "&*", "+@all"), "EVAL warmbase:3:"),
    ],
)
async def test_a_user_that_may_not_do_its_work_is_told_what_is_missing(server, rules, missing):
    assert missing in await refused(as_user(server, *rules))


async def test_a_check_leaves_nothing_behind(server):
    await checked(server.url)
    assert server.client.keys("*") == []


async def test_a_server_that_does_not_answer_is_not_called_wrong():
    with pytest.raises(QueueUnavailable) as caught:
        await checked(f"redis://127.0.0.1:{free_port()}")
    assert not isinstance(caught.value, WrongServer)


async def test_every_primary_of_a_cluster_is_asked(servers):
    node = servers.start_cluster()
    url = f"redis+cluster://127.0.0.1:{node.port}"
    assert await checked(url) == ()
    node.client.config_set("maxmemory", "100mb")
    node.client.config_set("maxmemory-policy", "allkeys-random")
    assert "allkeys-random" in await refused(url)


@pytest.mark.parametrize(
    ("product", "version", "good"),
    [
        ("redis", "6.2.14", False),
        ("redis", "7.0.0", True),
        ("redis", "10.1", True),
        ("valkey", "7.2.5", True),
        ("valkey", "7.1.0", False),
        ("something", "1.0", True),
    ],
)
def test_the_version_decides(product, version, good):
    facts = ServerFacts(product=product, version=version, primary=True, maxmemory=0, policy="noeviction")
    assert (problems_of(facts) == []) is good


def test_another_product_is_let_through_with_a_word():
    facts = ServerFacts(product="something", version="1.0", primary=True, maxmemory=0, policy="noeviction")
    assert len(unknowns_of(facts)) == 1
