"""Images in Redis: what is left behind, and what a server without memory does."""

import asyncio
from functools import partial

import pytest

from shared.errors import NoRoom, QueueUnavailable, ResultGone
from shared.queue.keys import ALL_BASES, BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import Enqueued, QueueSettings
from shared.redis_client import command_client
from shared.refs import base_tag
from shared.results.redis_store import RedisResults, trim_images
from shared.server_check import FULL, has_room
from tests.builders import BASE, a_job, a_lease
from tests.servers import Servers

DIGEST = "ab" * 32
IMAGE = bytes(range(256)) * 100
INDEX = BaseKeys(ALL_BASES)
TAG = base_tag(BASE)


@pytest.fixture
def results(redis):
    return RedisResults(redis, ttl=60, most_bytes=3 * len(IMAGE))


@pytest.fixture
def small_server(tmp_path):
    """A server with 8 MiB of memory, a good part of which is its own."""
    servers = Servers(tmp_path)
    yield servers.start('save ""', "maxmemory 8mb", "maxmemory-policy noeviction")
    servers.kill_all()


@pytest.fixture
async def small(small_server):
    async with command_client(small_server.url) as client:
        yield client


async def kept_bytes(redis):
    return int(await redis.get(INDEX.blob_bytes)), await redis.zcard(INDEX.blobs)


async def test_nothing_stays_for_ever(results, redis):
    await results.put(a_lease(), IMAGE)
    keys = await redis.keys("*")
    assert len(keys) == 3
    for key in keys:
        assert 50 < await redis.ttl(key) <= 60


async def test_the_sum_is_that_of_the_images(results, redis):
    lease = a_lease()
    for _ in range(3):
        await results.put(lease, IMAGE)
    assert await kept_bytes(redis) == (len(IMAGE), 1)
    for _ in range(9):
        await results.put(a_lease(), IMAGE[:-1])
    assert await kept_bytes(redis) == (3 * len(IMAGE[:-1]), 3)
    assert len(await redis.keys("*:blob:*")) == 3


async def test_images_that_expired_are_not_counted(redis):
    short = RedisResults(redis, ttl=1, most_bytes=3 * len(IMAGE))
    name = await short.put(a_lease(), IMAGE)
    long = RedisResults(redis, ttl=60, most_bytes=3 * len(IMAGE))
    await long.put(a_lease(), IMAGE)
    await asyncio.sleep(1.2)
    await long.put(a_lease(), IMAGE)
    assert await kept_bytes(redis) == (2 * len(IMAGE), 2)
    with pytest.raises(ResultGone):
        await long.get(name)


@pytest.mark.parametrize("lost", [INDEX.blobs, INDEX.blob_bytes])
async def test_a_server_that_evicts_may_lose_any_key(results, redis, lost):
    for _ in range(3):
        await results.put(a_lease(), IMAGE)
    await redis.delete(lost)
    names = [await results.put(a_lease(), IMAGE) for _ in range(3)]
    assert await kept_bytes(redis) == (3 * len(IMAGE), 3)
    assert [await results.get(name) for name in names] == [IMAGE] * 3


async def test_a_server_that_forgot_the_scripts_is_told_again(results, redis):
    await results.put(a_lease(), IMAGE)
    await redis.script_flush()
    await redis.flushall()
    assert await results.get(await results.put(a_lease(), IMAGE)) == IMAGE


async def test_writers_at_once_stay_within_the_room(results, redis):
    await asyncio.gather(*(results.put(a_lease(), IMAGE) for _ in range(40)))
    assert await kept_bytes(redis) == (3 * len(IMAGE), 3)
    assert len(await redis.keys("*:blob:*")) == 3


async def test_a_server_without_memory_gives_up_its_oldest_images(small):
    results = RedisResults(small, ttl=60, most_bytes=1 << 30)
    image = b"x" * 500_000
    names = [await results.put(a_lease(), image) for _ in range(60)]
    assert await results.get(names[-1]) == image
    assert await results.get(names[-2]) == image
    with pytest.raises(ResultGone):
        await results.get(names[0])
    assert (await small.info("memory"))["used_memory"] < 9 << 20
    bytes_kept, images_kept = await kept_bytes(small)
    assert bytes_kept == images_kept * len(image)
    assert images_kept == len(await small.keys("*:blob:*"))


async def test_images_that_fill_a_server_make_room_for_jobs(small):
    results, queue = RedisResults(small, ttl=60, most_bytes=1 << 30), JobQueue(small, TAG, QueueSettings())
    names = [await results.put(a_lease(), b"x" * 100_000) for _ in range(100)]
    memory = await small.info("memory")
    assert memory["used_memory"] > FULL * memory["maxmemory"]

    assert all(
        await asyncio.gather(*(has_room(small, partial(trim_images, small)) for _ in range(8)))
    )  # routers that look at once
    assert (await small.info("memory"))["used_memory"] < FULL * memory["maxmemory"] + 100_000
    assert (await queue.enqueue(a_job())).outcome is Enqueued.ADDED
    assert await results.get(names[-1])
    bytes_kept, images_kept = await kept_bytes(small)
    assert bytes_kept == images_kept * 100_000
    assert images_kept > 40
    assert images_kept == len(await small.keys("*:blob:*"))


async def test_images_that_are_not_in_the_way_stay_whatever_is(small, small_server):
    results = RedisResults(small, ttl=60, most_bytes=1 << 30)
    name = await results.put(a_lease(), IMAGE)
    await small.config_set("maxmemory", 0)
    small_server.client.set("queue", b"x" * (9 << 20))
    await small.config_set("maxmemory", 8 << 20)
    assert not await has_room(small, partial(trim_images, small))
    assert await results.get(name) == IMAGE


async def test_where_other_data_has_the_memory_the_attempt_fails_and_may_be_repeated(small, small_server):
    results = RedisResults(small, ttl=60, most_bytes=1 << 30)
    await small.config_set("maxmemory", 0)
    small_server.client.set("queue", b"x" * (9 << 20))
    small_server.client.close()  # and with it the buffer that the server read this into
    await small.config_set("maxmemory", 8 << 20)
    with pytest.raises(NoRoom) as caught:
        await results.put(a_lease(), IMAGE)
    assert caught.value.retryable
    with pytest.raises(NoRoom):
        await results.put_source(BASE, DIGEST, IMAGE, 30.0)
    assert await small.keys("*:blob:*") == []

    await small.delete("queue")
    assert await results.get(await results.put(a_lease(), IMAGE)) == IMAGE


async def test_a_server_that_is_gone_is_unavailable(small, small_server):
    results = RedisResults(small, ttl=60, most_bytes=1 << 30)
    name = await results.put(a_lease(), IMAGE)
    small_server.kill()
    with pytest.raises(QueueUnavailable):
        await results.get(name)
    with pytest.raises(QueueUnavailable):
        await results.put(a_lease(), IMAGE)
