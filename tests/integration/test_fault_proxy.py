"""The proxy that tests put before the server does to connections what it says, and nothing more."""

import asyncio
import time
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as NoReply

from tests.fault_proxy import RETRANSMISSION, FaultProxy, Link


@pytest.fixture
async def proxy(redis_url):
    async with FaultProxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
async def link(proxy):
    return await proxy.listen()


def a_client(link, seconds=5.0):
    """A client with one connection that sends nothing twice."""
    retry = Retry(NoBackoff(), 0)
    return Redis.from_url(link.url, socket_timeout=seconds, retry=retry, single_connection_client=True)


def raw(link):
    at = urlsplit(link.url)
    return asyncio.open_connection(at.hostname, at.port)


async def answered(reader, writer):
    """Return once the server has answered, if only that it wants a password."""
    writer.write(b"GET nothing\r\n")
    await reader.readuntil(b"\r\n")


async def end(writer):
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def until(condition):
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - what is awaited happens on the server
            await asyncio.sleep(0.01)


async def test_it_listens_on_the_loopback_and_keeps_the_words_of_the_url(proxy, redis_url):
    link, server_at = await proxy.listen(), urlsplit(redis_url)
    at = urlsplit(link.url)
    assert (at.hostname, at.port != server_at.port) == ("127.0.0.1", True)
    assert link.url == redis_url.replace(f":{server_at.port}", f":{at.port}")
    assert [each.getsockname()[0] for each in link._listening.sockets] == ["127.0.0.1"]


async def test_everything_passes_in_order_and_whole(link):
    async with a_client(link) as client:
        large = bytes(range(256)) * 40_000
        await client.set("large", large)
        assert await client.get("large") == large
        pipeline = client.pipeline(transaction=False)
        for number in range(5000):
            pipeline.rpush("numbers", number)
        await pipeline.execute()
        assert await client.lrange("numbers", 0, -1) == [str(number).encode() for number in range(5000)]


async def test_a_delay_counts_each_way_and_ends_with_the_healing(link):
    async with a_client(link) as client:
        await client.ping()
        link.delay(0.1)
        begin = time.monotonic()
        await client.ping()
        assert 0.2 <= time.monotonic() - begin < 2.0
        await link.heal()
        begin = time.monotonic()
        await client.ping()
        assert time.monotonic() - begin < 0.1


async def test_a_delay_makes_late_and_not_slow(link):
    """What is sent while the first piece is under way arrives right after it."""
    async with a_client(link) as client:
        await client.ping()
        reader, writer = await raw(link)
        link.delay(0.3)
        begin = time.monotonic()
        for _ in range(20):
            writer.write(b"GET nothing\r\n")
            await asyncio.sleep(0.01)
        writer.write_eof()
        await reader.read()
        assert time.monotonic() - begin < 2.0
        await end(writer)


async def test_what_is_lost_on_the_way_comes_later(link):
    async with a_client(link) as client:
        await client.ping()
        link.delay(0.0, loss=1.0)
        begin = time.monotonic()
        assert await client.ping()
        assert time.monotonic() - begin >= 2 * RETRANSMISSION


async def test_stranded_connections_are_silent_for_good_and_new_ones_are_not(link):
    async with a_client(link, 0.3) as known:
        await known.ping()
        link.strand()
        with pytest.raises(NoReply):
            await known.ping()
        async with a_client(link, 0.3) as fresh:
            assert await fresh.ping()
            link.black_hole()
            with pytest.raises(NoReply):
                await fresh.ping()


async def test_a_black_hole_takes_commands_and_new_connections_without_a_word(link, redis):
    async with a_client(link, 0.3) as known, a_client(link, 0.3) as fresh:
        await known.ping()
        link.black_hole()
        for client in (known, fresh):
            with pytest.raises(NoReply):
                await client.incr("counter")
        assert await redis.get("counter") is None
        assert link.connections == 2  # nobody has been told that an end was closed


async def test_what_a_black_hole_held_arrives_when_it_heals(link, redis):
    async with a_client(link, 0.3) as client, a_client(link, 10.0) as patient:
        await asyncio.gather(client.ping(), patient.ping())
        link.black_hole()
        waiting = asyncio.create_task(patient.incr("counter"))
        with pytest.raises(NoReply):
            await client.incr("counter")
        await link.heal()
        await waiting

        async def both_ran():
            return await redis.get("counter") == b"2"

        await until(both_ran)
        assert await client.ping()


async def test_a_black_hole_holds_what_the_server_says_unasked(link, redis):
    async with a_client(link) as client, client.pubsub(ignore_subscribe_messages=True) as subscription:
        await subscription.subscribe("channel")
        assert await subscription.get_message(timeout=1.0) is None
        link.black_hole()
        assert await redis.publish("channel", "word") == 1
        assert await subscription.get_message(timeout=0.3) is None
        await link.heal()
        assert (await subscription.get_message(timeout=5.0))["data"] == b"word"


async def test_a_server_whose_replies_are_held_does_what_it_is_told(link, redis):
    async with a_client(link, 0.3) as client:
        await client.ping()
        link.hold_replies()
        with pytest.raises(NoReply):
            await client.incr("counter")
        assert await redis.get("counter") == b"1"


async def test_a_lost_reply_was_run_and_costs_its_connection_and_no_other(link, redis):
    async with a_client(link) as client, a_client(link) as other:
        await asyncio.gather(client.ping(), other.ping())
        link.lose_replies(b"INCR")
        assert await client.get("counter") is None
        with pytest.raises(Disconnected):
            await client.incr("counter")
        assert await redis.get("counter") == b"1"
        assert await other.incr("counter") == 2
        assert await client.incr("counter") == 3
        assert link.lost_replies == 1


async def test_as_many_replies_are_lost_as_were_asked_for(link, redis):
    async with a_client(link) as client:
        link.lose_replies(b"INCR", count=2)
        for _ in range(2):
            with pytest.raises(Disconnected):
                await client.incr("counter")
        assert await client.incr("counter") == 3
        assert link.lost_replies == 2


async def test_without_a_word_the_very_next_reply_is_lost(link, redis):
    async with a_client(link) as client:
        await client.ping()
        link.lose_replies()
        with pytest.raises(Disconnected):
            await client.set("key", "value")
    assert await redis.get("key") == b"value"


async def test_a_reset_is_a_reset_and_new_connections_are_welcome(link):
    reader, writer = await raw(link)
    await answered(reader, writer)
    await link.reset()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    await end(writer)
    assert link.connections == 0
    async with a_client(link) as client:
        assert await client.ping()


async def test_a_lost_reply_ends_its_connection_in_order(link):
    reader, writer = await raw(link)
    await answered(reader, writer)
    link.lose_replies()
    writer.write(b"GET nothing\r\n")
    assert await reader.read() == b""
    await end(writer)


async def test_the_server_learns_of_a_reset(link, redis):
    async with a_client(link) as client:
        name = await client.client_id()
        await link.reset()

        async def is_gone():
            return name not in {int(each["id"]) for each in await redis.client_list()}

        await until(is_gone)


async def test_who_is_refused_is_refused_at_once_and_comes_back_to_the_same_address(link):
    async with a_client(link) as client:
        await client.ping()
        url = link.url
        await link.refuse()
        await link.refuse()
        assert link.connections == 0
        with pytest.raises(ConnectionRefusedError):
            await raw(link)
        with pytest.raises(RedisError):
            await client.ping()
        await link.heal()
        assert link.url == url
        assert await client.ping()


async def test_each_link_has_faults_of_its_own(proxy):
    links = [await proxy.listen() for _ in range(3)]
    async with a_client(links[0], 0.3) as cut, a_client(links[1]) as gone, a_client(links[2]) as fine:
        await asyncio.gather(cut.ping(), gone.ping(), fine.ping())
        links[0].black_hole()
        await links[1].refuse()
        with pytest.raises(NoReply):
            await cut.ping()
        with pytest.raises(Disconnected):
            await gone.ping()
        assert await fine.ping()


async def test_a_server_that_is_not_there_ends_the_connection(unused_tcp_port):
    async with FaultProxy(f"redis://127.0.0.1:{unused_tcp_port}/0") as proxy:
        with pytest.raises(Disconnected):
            async with a_client(await proxy.listen()) as client:
                await client.ping()


FAULTS = {
    "none": lambda _: None,
    "delay": lambda link: link.delay(60.0),
    "black hole": Link.black_hole,
    "held replies": Link.hold_replies,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_nothing_is_left_when_it_is_closed_in_the_middle(redis_url, redis, fault):
    before = asyncio.all_tasks()
    async with FaultProxy(redis_url) as proxy:
        link = await proxy.listen()
        reader, writer = await raw(link)
        silent = await raw(link)
        fault(link)
        writer.write(b"SUBSCRIBE channel\r\n")
        await asyncio.sleep(0.05)
        assert link.connections == 2
    assert asyncio.all_tasks() == before
    with suppress(ConnectionError):
        await reader.read()
    for each in (writer, silent[1]):
        await end(each)


async def test_closing_does_not_wait_for_a_client_that_does_not_read(redis_url, redis):
    await redis.set("large", bytes(40_000_000))
    async with asyncio.timeout(10):
        async with FaultProxy(redis_url) as proxy:
            reader, writer = await raw(await proxy.listen())
            password = urlsplit(redis_url).password
            writer.write(b"AUTH %s\r\nGET large\r\n" % (password or "").encode())
            writer.transport.pause_reading()
            await asyncio.sleep(0.2)
    writer.transport.abort()
    del reader
