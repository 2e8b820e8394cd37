"""What the clients do when a reply is lost, or the server is in trouble."""

import asyncio

import pytest

from shared import redis_client
from shared.errors import QueueUnavailable
from shared.redis_client import blocking_client, command_client, pubsub_client, translate_errors
from tests.fault_proxy import FaultProxy


@pytest.fixture
async def link(redis_url):
    async with FaultProxy(redis_url) as proxy:
        yield await proxy.listen()


async def test_a_command_whose_reply_does_not_come_is_not_sent_again(link, redis, monkeypatch):
    monkeypatch.setattr(redis_client, "REPLY_SECONDS", 0.5)
    async with command_client(link.url) as client:
        await client.ping()
        link.hold_replies()
        with pytest.raises(QueueUnavailable), translate_errors():
            await client.incr("counter")
    assert await redis.get("counter") == b"1"


async def test_a_command_on_a_broken_connection_is_sent_once_more(link, redis):
    link.lose_replies(b"INCR", count=100)
    async with command_client(link.url) as client:
        with pytest.raises(QueueUnavailable), translate_errors():
            await client.incr("counter")
    assert await redis.get("counter") == b"2"


async def test_a_blocking_command_is_never_sent_again(link, redis):
    link.lose_replies(b"INCR", count=100)
    async with blocking_client(link.url, 1.0) as client:
        with pytest.raises(QueueUnavailable), translate_errors():
            await client.incr("counter")
    assert await redis.get("counter") == b"1"


async def test_a_connection_that_was_closed_meanwhile_is_opened_again(redis, redis_url):
    async with command_client(redis_url) as client:
        name = await client.client_id()
        await redis.client_kill_filter(_id=name)
        assert await client.ping()


async def test_a_blocking_wait_outlasts_the_time_for_an_answer(redis_url, monkeypatch):
    monkeypatch.setattr(redis_client, "REPLY_SECONDS", 0.5)
    async with blocking_client(redis_url, longest_wait=1.0) as client:
        assert await client.bzpopmin("nothing", timeout=1.0) is None


async def test_more_callers_than_connections_wait_their_turn(redis_url, monkeypatch):
    # how long all these connections take together is the machine's affair
    monkeypatch.setattr(redis_client, "CONNECT_SECONDS", 60.0)
    async with command_client(redis_url) as client:
        answers = await asyncio.gather(*(client.incr("n") for _ in range(500)))
        assert sorted(answers) == list(range(1, 501))
        assert len(await client.client_list()) <= redis_client.CONNECTIONS + 1


async def test_a_subscription_has_no_time_limit(redis_url):
    async with pubsub_client(redis_url) as client:
        assert client.get_connection_kwargs()["socket_timeout"] is None


async def test_answers_are_bytes(redis):
    await redis.set("key", "value")
    assert await redis.get("key") == b"value"


async def test_a_mistake_of_ours_is_not_hidden(redis):
    await redis.set("text", "value")
    with pytest.raises(Exception, match="WRONGTYPE"), translate_errors():
        await redis.zcard("text")


async def test_a_server_that_lacks_replicas_is_unavailable_for_now(redis):
    """As after a fail-over: the server is there, and refuses to write."""
    await redis.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(QueueUnavailable), translate_errors():
            await redis.set("key", "value")
        with pytest.raises(QueueUnavailable), translate_errors():
            await redis.pipeline(transaction=False).set("key", "value").execute()
    finally:
        await redis.config_set("min-replicas-to-write", 0)


async def test_a_blocking_command_that_a_fail_over_ends_finds_the_server_unavailable(redis, redis_url):
    async with blocking_client(redis_url, 5.0) as blocking:
        waiting = asyncio.create_task(blocking.bzpopmin("nothing", timeout=5.0))
        while not (await redis.info("clients"))["blocked_clients"]:  # noqa: ASYNC110 - the server cannot tell
            await asyncio.sleep(0.01)
        await redis.replicaof("127.0.0.1", 1)
        try:
            with pytest.raises(QueueUnavailable), translate_errors():
                await waiting
        finally:
            await redis.replicaof("NO", "ONE")
