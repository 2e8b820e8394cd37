"""A primary that is replaced and a base that moves to another node, while callers wait and workers draw."""

import asyncio
import signal
import time
from contextlib import asynccontextmanager, suppress
from itertools import count

import pytest

from router.metrics import Metrics
from router.queues import Queues
from router.waiting import JobWaiter
from shared.errors import QueueUnavailable
from shared.jobs import JobStatus, WorkerId
from shared.queue.keys import BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import QueueSettings
from shared.redis_client import command_client, pubsub_client
from shared.refs import base_tag
from shared.results.redis_store import RedisResults
from tests.builders import BASE, a_job, a_result
from tests.servers import Servers, until
from tests.steps import claim_one

TAG = base_tag(BASE)
SETTINGS = QueueSettings(lease=60.0)
PATIENCE = 60.0
GAP = 15.0
"""Seconds without an answer that a fail-over may cost on a busy machine."""


@pytest.fixture
def servers(request, tmp_path):
    """Of Valkey, unless the test asks for Redis."""
    of_redis = getattr(request, "param", "valkey") == "redis"
    servers = Servers(tmp_path, request.getfixturevalue("redis_binary") if of_redis else None)
    yield servers
    servers.kill_all()


class Load:
    """Ten callers, each with a request after the other, and two workers.

    Attributes:
        answered: when each image came.
        refused: requests that got no place on the queue; their callers ask anew.
    """

    def __init__(self, url):
        self._url = url
        # Flags, because under Python 3.11 a command that is being sent may swallow a cancel.
        self._all_asked = self._all_drawn = False
        self.answered = []
        self.refused = 0

    async def call(self, waiter):
        while not self._all_asked:
            try:
                record = await waiter.run(a_job(timeout=PATIENCE), 1)
            except QueueUnavailable:
                self.refused += 1
                await asyncio.sleep(0.05)
            else:
                assert record.status is JobStatus.SUCCEEDED
                self.answered.append(time.monotonic())

    async def work(self, worker, commands):
        queue = JobQueue(commands, TAG, SETTINGS)
        results = RedisResults(commands, ttl=60, most_bytes=1 << 20)
        for number in count():
            if self._all_drawn:
                return
            lease = await until_answered(lambda number=number: claim_one(queue, worker, f"token-{number}"))
            if lease is None:
                await asyncio.sleep(0.005)
                continue
            blob = await until_answered(lambda lease=lease: results.put(lease, b"an image"))
            await until_answered(lambda lease=lease, blob=blob: queue.complete(lease, a_result(blob=blob)))

    @asynccontextmanager
    async def under_way(self):
        """Have it go on until the end of the block, and everybody be answered then."""
        async with (
            command_client(self._url) as commands,
            command_client(self._url) as of_workers,
            pubsub_client(self._url) as subscriptions,
        ):
            results = RedisResults(commands, ttl=60, most_bytes=1 << 20)
            queues = Queues(commands, SETTINGS, Metrics(), results)
            async with JobWaiter(queues, subscriptions, patience=PATIENCE) as waiter:
                workers = [
                    asyncio.create_task(self.work(WorkerId(f"worker-{number}"), of_workers))
                    for number in range(2)
                ]
                callers = [asyncio.create_task(self.call(waiter)) for _ in range(10)]
                await self.goes_on()
                yield
                await self.goes_on()
                self._all_asked = True
                async with asyncio.timeout(PATIENCE):
                    await asyncio.gather(*callers)
                    self._all_drawn = True
                    await asyncio.gather(*workers)
                assert await until_answered(lambda: queues.of_base(BASE).depth()) == (0, 0)

    async def goes_on(self):
        """Return once some more were answered."""
        enough = len(self.answered) + 20
        async with asyncio.timeout(PATIENCE):
            while len(self.answered) < enough:  # noqa: ASYNC110 - others count
                await asyncio.sleep(0.01)

    @property
    def longest_gap(self):
        return max(later - earlier for earlier, later in zip(self.answered, self.answered[1:], strict=False))


async def until_answered(call):
    while True:
        with suppress(QueueUnavailable):
            return await call()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_fail_over_costs_those_who_wait_some_seconds_and_nobody_the_answer(servers, end):
    primary = servers.start('save ""')
    replica = servers.start('save ""', f"replicaof 127.0.0.1 {primary.port}")
    until(lambda: replica.client.info("replication")["master_link_status"] == "up")
    sentinel = servers.start_sentinel(primary)
    until(lambda: len(sentinel.client.sentinel_slaves("queue")) == 1)
    load = Load(f"redis+sentinel://127.0.0.1:{sentinel.port}/queue")
    async with load.under_way():
        primary.process.send_signal(end)
        await asyncio.to_thread(until, lambda: replica.role == "master")
    assert load.longest_gap < GAP
    if end is signal.SIGSTOP:
        primary.process.send_signal(signal.SIGCONT)
        await what_the_old_primary_still_takes_is_gone_with_its_role(primary)


async def what_the_old_primary_still_takes_is_gone_with_its_role(primary):
    async with command_client(primary.url) as commands:
        queue, late = JobQueue(commands, TAG, SETTINGS), a_job()
        with suppress(QueueUnavailable):
            await queue.enqueue(late)
        await asyncio.to_thread(until, lambda: primary.role == "slave")
        with pytest.raises(QueueUnavailable):
            await queue.enqueue(a_job())

        async def is_forgotten():
            return await until_answered(lambda: queue.records([late.id])) == [None]

        async with asyncio.timeout(PATIENCE):
            while not await is_forgotten():  # noqa: ASYNC110 - the server forgets
                await asyncio.sleep(0.05)


def key_by_key(slot, source, target):
    """Move a slot as every Redis and Valkey does it."""
    (here, there) = (server.client.execute_command("CLUSTER", "MYID").decode() for server in (source, target))
    target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
    source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
    while keys := source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 3):
        source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        time.sleep(0.02)
    for server in (target, source):
        server.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", there)


def all_at_once(slot, source, target):
    """Move a slot as Valkey 9 does it."""
    there = target.client.execute_command("CLUSTER", "MYID").decode()
    source.client.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", there)


@pytest.mark.parametrize(
    ("servers", "move"),
    [("valkey", key_by_key), ("redis", key_by_key), ("valkey", all_at_once)],
    indirect=["servers"],
)
async def test_a_base_that_moves_to_another_node_costs_retries_only(servers, move):
    node = servers.start_cluster()
    another = servers.join_cluster(node)
    slot = node.client.cluster("keyslot", BaseKeys(TAG).ready)
    load = Load(f"redis+cluster://127.0.0.1:{node.port}")
    async with load.under_way():
        for source, target in ((node, another), (another, node)):
            await asyncio.to_thread(move, slot, source, target)
            await asyncio.to_thread(until, lambda target=target: bool(target.client.keys("*:meta")))
            await load.goes_on()
