import json
import time
from dataclasses import asdict

import pytest

from shared.jobs import WorkerId
from shared.pools import BASES_KEPT, BasePool, PoolDirectory
from shared.queue.keys import BASES, POOLS
from shared.refs import RepoId, base_tag
from tests.builders import a_worker

LONG = 600.0


@pytest.fixture
def directory(redis):
    return PoolDirectory(redis)


@pytest.fixture
def run_out(redis):
    """Let the time of all announcements so far be over."""

    async def run_out():
        for member in await redis.zrange(POOLS, 0, -1):
            await redis.zadd(POOLS, {member: 1})

    return run_out


async def test_nobody_is_there_at_first(directory):
    assert await directory.live() == ()


async def test_workers_stand_in_the_pool_of_their_base(directory):
    workers = [
        a_worker(id=WorkerId("b"), base=RepoId("z/last")),
        a_worker(id=WorkerId("a"), base=RepoId("z/last")),
        a_worker(id=WorkerId("c"), base=RepoId("a/first")),
    ]
    for worker in workers:
        await directory.announce(worker, LONG)
    assert await directory.live() == (
        BasePool(base=RepoId("a/first"), workers=(workers[2],)),
        BasePool(base=RepoId("z/last"), workers=(workers[1], workers[0])),
    )


async def test_a_worker_announces_itself_again_and_again(directory):
    await directory.announce(a_worker(), LONG)
    await directory.announce(a_worker(), LONG)
    assert await directory.live() == (BasePool(base=a_worker().base, workers=(a_worker(),)),)


async def test_a_worker_that_fell_silent_is_gone(directory, run_out):
    await directory.announce(a_worker(), LONG)
    await run_out()
    assert await directory.live() == ()


async def test_an_announcement_counts_from_the_servers_time(directory, redis):
    now, _ = await redis.time()
    await directory.announce(a_worker(), LONG)
    ((_, expiry),) = await redis.zrange(POOLS, 0, -1, withscores=True)
    assert now + LONG <= expiry < now + LONG + 60


async def test_the_silent_ones_are_cleared_away(directory, run_out, redis):
    await directory.announce(a_worker(id=WorkerId("silent")), LONG)
    await run_out()
    await directory.announce(a_worker(), LONG)
    assert await redis.zcard(POOLS) == 1


async def test_a_worker_that_leaves_is_gone_at_once(directory):
    await directory.announce(a_worker(), LONG)
    await directory.withdraw(a_worker())
    await directory.withdraw(a_worker())
    assert await directory.live() == ()


async def test_a_worker_of_an_older_version_is_no_copy(directory, redis):
    record = asdict(a_worker())
    del record["copy_of"]
    now, _ = await redis.time()
    await redis.zadd(POOLS, {json.dumps(record): now + LONG})
    (pool,) = await directory.live()
    assert (pool.workers, pool.copy_of) == ((a_worker(),), None)


async def test_a_worker_of_another_version_is_left_out(directory, redis):
    await directory.announce(a_worker(), LONG)
    now, _ = await redis.time()
    await redis.zadd(POOLS, {b'{"id":"newer","unheard_of":1}': now + LONG})
    assert await directory.live() == (BasePool(base=a_worker().base, workers=(a_worker(),)),)


async def test_a_base_whose_workers_have_all_gone_is_known_for_a_day(directory, redis, run_out):
    other = RepoId("another/base")
    await directory.announce(a_worker(), LONG)
    await directory.announce(a_worker(base=other), LONG)
    assert await directory.left() == []
    await directory.withdraw(a_worker())
    assert await directory.left() == [base_tag(a_worker().base)]
    await run_out()
    assert sorted(await directory.left()) == sorted([base_tag(a_worker().base), base_tag(other)])

    await redis.zadd(BASES, {base_tag(other): time.time() - BASES_KEPT - 1})
    await directory.announce(a_worker(), LONG)
    assert await directory.left() == []
