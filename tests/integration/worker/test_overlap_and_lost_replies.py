"""The end of one job beside the next one, and calls whose replies never came."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared.errors import QueueUnavailable
from shared.jobs import JobStatus
from shared.queue.queue import JobQueue
from shared.queue.terms import Claim, LeaseState
from shared.results.redis_store import RedisResults
from tests.builders import BASE, a_job
from tests.integration.worker.conftest import QueueUser, StartWorker, until
from worker.metrics import Outcome
from worker.running import RunningJob

Call = Callable[..., Awaitable[Any]]


async def test_an_image_is_stored_while_the_next_one_is_drawn(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisResults.put
    first = await queue.add(a_job(adapters=()))
    second = await queue.add(a_job(adapters=()))
    may_store = asyncio.Event()

    async def slow_put(self: RedisResults, *arguments: Any) -> str:
        await may_store.wait()
        return await store(self, *arguments)

    monkeypatch.setattr(RedisResults, "put", slow_put)
    worker = start_worker()

    await worker.drawing(2)
    assert (await queue.record(first)).status is JobStatus.RUNNING
    may_store.set()
    for job in (first, second):
        assert (await queue.ended(job)).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("call", ["claim", "complete"])
async def test_a_lost_reply_costs_neither_a_job_nor_an_attempt(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    original: Call = getattr(JobQueue, call)
    lost: list[object] = []

    async def without_its_first_reply(self: JobQueue, *arguments: Any, **named: Any) -> Any:
        reply = await original(self, *arguments, **named)
        if reply != Claim() and not lost:
            lost.append(reply)
            raise QueueUnavailable("the reply was lost")
        return reply

    monkeypatch.setattr(JobQueue, call, without_its_first_reply)
    worker = start_worker()
    record = await queue.ended(await queue.add(a_job(adapters=())))

    assert lost
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 1)
    await worker.stop()
    assert worker.finished(Outcome.SUCCEEDED) == 1
    assert worker.engine.generations == 2


@pytest.mark.parametrize("reply", ["is lost", "is late"])
async def test_a_lease_that_is_given_as_the_worker_stops_goes_back_uncharged(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, reply: str
) -> None:
    original = JobQueue.claim
    given: list[Claim] = []

    async def claim(self: JobQueue, *arguments: Any, **named: Any) -> Claim:
        claimed = await original(self, *arguments, **named)
        if claimed.leases and not given:
            given.append(claimed)
            if reply == "is lost":
                worker.app.stop()
                raise QueueUnavailable("the reply was lost")
            worker.app.stop()
            worker.app.stop()  # a second signal does not wait for what is drawn
            await asyncio.sleep(0.1)
        return claimed

    monkeypatch.setattr(JobQueue, "claim", claim)
    worker = start_worker()
    job = await queue.add(a_job(adapters=()))
    await worker.running

    assert given
    record = await queue.record(job)
    assert (record.status, record.attempts) == (JobStatus.QUEUED, 0)


async def test_an_image_that_cannot_be_stored_fails_its_job_and_the_next_one_runs(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken_put(*_arguments: Any) -> str:
        monkeypatch.undo()
        raise OSError("no space left")

    monkeypatch.setattr(RedisResults, "put", broken_put)
    start_worker()
    job = await queue.add(a_job(adapters=()))

    record = await queue.ended(job)
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 2)


async def test_workers_announce_themselves_once_they_are_warm_and_withdraw_at_the_end(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    workers = [start_worker(), start_worker()]

    async def both_are_live() -> bool:
        return [len(pool.workers) for pool in await queue.pools.live()] == [2]

    await until(both_are_live)
    assert await workers[0].stop() == 0
    (pool,) = await queue.pools.live()
    assert (pool.base, len(pool.workers)) == (BASE, 1)
    await workers[1].stop()
    assert await queue.pools.live() == ()


async def test_a_job_that_is_cancelled_after_its_last_step_counts_as_cancelled(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stop = RedisResults.put, RunningJob.stop
    worker = start_worker()
    job = a_job(adapters=())
    stopped: list[LeaseState] = []

    def noted_stop(self: RunningJob, reason: LeaseState) -> None:
        stop(self, reason)
        stopped.append(reason)

    async def put_after_the_cancel(self: RedisResults, *arguments: Any) -> str:
        await queue.jobs.cancel(job.id)

        async def is_told() -> bool:
            return bool(stopped)

        await until(is_told)
        return await store(self, *arguments)

    monkeypatch.setattr(RunningJob, "stop", noted_stop)
    monkeypatch.setattr(RedisResults, "put", put_after_the_cancel)
    await queue.add(job)

    assert (await queue.ended(job.id)).status is JobStatus.CANCELLED
    await worker.stop()
    assert worker.finished(Outcome.CANCELLED) == 1
    assert worker.finished(Outcome.SUCCEEDED) == 0
