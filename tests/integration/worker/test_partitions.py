"""A network between a worker and Redis that is silent, slow, or keeps losing connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from shared.config import WorkerConfig
from shared.jobs import JobStatus
from shared.redis_client import REPLY_SECONDS
from tests.builders import BASE, a_job, some_params
from tests.fault_proxy import FaultProxy, Link
from tests.integration.worker.conftest import LEASE, LocalWorker, QueueUser, StartWorker, until
from tests.null_engine import NullEngine
from worker.app import JOINING
from worker.metrics import Outcome

LATENCY, LOSS = 0.1, 0.01


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Link]:
    """The way to the server of one worker alone."""
    async with FaultProxy(redis_url) as proxy:
        yield await proxy.listen()


@pytest.fixture
def far(config: WorkerConfig, link: Link) -> WorkerConfig:
    """The configuration of the worker behind the link."""
    return replace(config, common=replace(config.common, redis_url=link.url))


def live(queue: QueueUser, count: int) -> Callable[[], Awaitable[bool]]:
    async def are_live() -> bool:
        return sum(len(pool.workers) for pool in await queue.pools.live()) == count

    return are_live


def has_finished(worker: LocalWorker, outcome: Outcome) -> Callable[[], Awaitable[bool]]:
    async def has_ended_so() -> bool:
        return worker.finished(outcome) == 1

    return has_ended_so


async def test_a_worker_in_a_silence_loses_its_job_to_another_and_rejoins_by_itself(
    queue: QueueUser, start_worker: StartWorker, far: WorkerConfig, link: Link
) -> None:
    cut_off = start_worker(NullEngine(BASE, step_seconds=0.02), config=far)
    job = await queue.add(a_job(adapters=(), params=some_params(steps=100_000)))
    await queue.drawing(job)
    link.black_hole()
    other = start_worker(NullEngine(BASE))
    await until(live(queue, 1))
    record = await queue.ended(job)
    assert (record.status, record.attempts, record.crashes) == (JobStatus.SUCCEEDED, 2, 1)
    await asyncio.sleep(REPLY_SECONDS)
    await link.heal()

    await until(has_finished(cut_off, Outcome.LOST))
    await until(live(queue, 2))
    await other.stop()
    assert (await queue.ended(await queue.add(a_job(adapters=())))).status is JobStatus.SUCCEEDED
    assert cut_off.finished(Outcome.SUCCEEDED) == 1
    assert await queue.record(job) == record


async def test_connections_that_die_without_a_word_cost_no_lease(
    queue: QueueUser, start_worker: StartWorker, far: WorkerConfig, link: Link
) -> None:
    start_worker(NullEngine(BASE, step_seconds=0.02), config=far)
    job = await queue.add(a_job(adapters=(), params=some_params(steps=300)))
    await queue.drawing(job)
    for _ in range(2):  # the first one may be noticed by an announcement
        link.strand()
        await asyncio.sleep(LEASE / 2)
    await asyncio.sleep(LEASE)
    assert await queue.jobs.reap() == 0

    record = await queue.ended(job)
    assert (record.status, record.attempts, record.crashes) == (JobStatus.SUCCEEDED, 1, 0)


async def test_a_worker_that_no_router_can_see_yet_is_not_ready(
    queue: QueueUser, start_worker: StartWorker, far: WorkerConfig, link: Link
) -> None:
    worker = start_worker(NullEngine(BASE, step_seconds=0.2), config=far)
    readiness = worker.app._readiness

    async def is_warming_up() -> bool:
        return readiness.stage == "warming up"

    async def is_ready() -> bool:
        return readiness.ready

    await until(is_warming_up)
    link.black_hole()
    await asyncio.sleep(REPLY_SECONDS)
    assert (readiness.stage, readiness.ready) == (JOINING, False)

    await link.heal()
    await until(is_ready)
    assert await live(queue, 1)()


async def test_an_end_that_comes_out_of_a_silence_too_late_changes_nothing(
    queue: QueueUser, start_worker: StartWorker, far: WorkerConfig, link: Link
) -> None:
    cut_off = start_worker(NullEngine(BASE, step_seconds=0.05), config=far)
    job = await queue.add(a_job(adapters=(), params=some_params(steps=20)))
    await queue.drawing(job)
    link.black_hole()
    start_worker(NullEngine(BASE))
    record = await queue.ended(job)
    await asyncio.sleep(REPLY_SECONDS)
    await link.heal()

    await until(has_finished(cut_off, Outcome.LOST))
    assert len(await queue.blobs()) == 2  # what was drawn twice: the late image is kept, but nobody's
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 2)
    assert await queue.record(job) == record


async def test_a_worker_told_to_stop_in_a_silence_ends_all_the_same(
    queue: QueueUser, start_worker: StartWorker, far: WorkerConfig, link: Link
) -> None:
    worker = start_worker(NullEngine(BASE), config=far)
    await until(live(queue, 1))
    link.black_hole()

    async with asyncio.timeout(6 * REPLY_SECONDS):
        await worker.stop()


async def test_latency_and_loss_cost_neither_a_lease_nor_a_second_run(
    queue: QueueUser, start_worker: StartWorker, far: WorkerConfig, link: Link
) -> None:
    worker = start_worker(NullEngine(BASE, step_seconds=0.02), config=far)
    link.delay(LATENCY, loss=LOSS)
    long = await queue.add(a_job(adapters=(), params=some_params(steps=250)))
    jobs = [long, *[await queue.add(a_job(adapters=())) for _ in range(10)]]

    records = [await queue.ended(job) for job in jobs]
    assert {(each.status, each.attempts, each.crashes) for each in records} == {(JobStatus.SUCCEEDED, 1, 0)}
    await worker.stop()
    assert worker.finished(Outcome.SUCCEEDED) == len(jobs)
    assert worker.engine.generations == len(jobs) + 1  # the warm-up


async def test_connections_that_are_reset_again_and_again_cost_neither_a_job_nor_an_attempt(
    queue: QueueUser, start_worker: StartWorker, far: WorkerConfig, link: Link
) -> None:
    start_worker(NullEngine(BASE, step_seconds=0.02), config=far)
    jobs = [await queue.add(a_job(adapters=(), params=some_params(steps=20))) for _ in range(10)]

    async def reset() -> None:
        while True:
            await link.reset()
            await asyncio.sleep(0.25)

    resetting = asyncio.create_task(reset())
    records = [await queue.ended(job) for job in jobs]
    resetting.cancel()
    await asyncio.gather(resetting, return_exceptions=True)
    assert {(each.status, each.attempts, each.crashes) for each in records} == {(JobStatus.SUCCEEDED, 1, 0)}
