"""What comes next is brought up while the current job draws; what is slow holds up nobody else."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from deploy.local_hub.faults import FaultRule
from shared.config import WorkerConfig
from shared.jobs import Job, JobId, JobStatus
from shared.queue.keys import BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import Lease, Mode, QueueSettings
from shared.refs import base_tag
from shared.results.redis_store import RedisResults
from shared.sealing import Sealer
from tests.builders import BASE, a_job, some_params
from tests.integration.worker.conftest import (
    LEASE,
    PATIENCE,
    SECRET,
    Hub,
    LocalWorker,
    QueueUser,
    StartProcess,
    StartWorker,
    until,
)
from tests.null_engine import BROKEN_FILE, NullEngine
from worker.executor import JobExecutor
from worker.exit_codes import ExitCode
from worker.metrics import Outcome
from worker.staging import MOST_FAR

ENDLESS = 1_000_000


@pytest.fixture
def settings() -> QueueSettings:
    """First come, first served."""
    return QueueSettings(lease=LEASE, slack=0.0, max_overtakes=0)


@pytest.fixture
def config(config: WorkerConfig, hub: Hub) -> WorkerConfig:
    return replace(config, common=replace(config.common, hub=hub.url))


@pytest.fixture
def held_downloads(hub: Hub) -> Iterator[asyncio.Event]:
    """Downloads of `slow` repositories wait until this is set."""
    released = asyncio.Event()

    async def wait(_seconds: float) -> None:
        await released.wait()

    hub.faults.sleep = wait
    hub.faults.add(FaultRule(path="*/slow*/resolve/*", method="GET", latency_s=1.0))
    yield released
    released.set()


def endless(**changes: object) -> Job:
    return a_job(**{"adapters": (), "params": some_params(steps=ENDLESS), **changes})


def a_slow_engine() -> NullEngine:
    return NullEngine(BASE, step_seconds=0.02)


async def ingested(worker: LocalWorker, *repos: str) -> None:
    async def are_there() -> bool:
        return all(
            any(name.replace("/", "--") in str(path) for path in worker.engine.ingested) for name in repos
        )

    await until(are_there)


def metric(worker: LocalWorker, name: str, **labels: str) -> float | None:
    return worker.app._metrics.registry.get_sample_value(f"warmbase_{name}", {"base_model": BASE, **labels})


async def test_a_hinted_adapter_is_in_ram_before_its_job_is_claimed(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("someone/crayon", b"crayon")
    current = await queue.add(endless())
    following = await queue.add(a_job(adapters=await hub.pinned("someone/crayon")))
    worker = start_worker(a_slow_engine())

    await ingested(worker, "someone/crayon")
    assert (await queue.record(following)).status is JobStatus.QUEUED
    await queue.jobs.cancel(current)
    assert (await queue.ended(following)).status is JobStatus.SUCCEEDED
    assert metric(worker, "adapter_tier_hits_total", tier="ram") == 1
    assert len(worker.engine.ingested) == 1


async def test_the_next_job_is_claimed_while_the_last_step_of_the_current_one_runs(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    engine = NullEngine(BASE, step_seconds=0.5)
    current = await queue.add(a_job(adapters=(), params=some_params(steps=3)))
    following = await queue.add(a_job(adapters=(), params=some_params(steps=3)))
    third = await queue.add(a_job(adapters=()))
    start_worker(engine)
    await queue.running(following)
    assert (await queue.record(current)).status is JobStatus.RUNNING
    assert (await queue.record(third)).status is JobStatus.QUEUED
    for job in (current, following, third):
        assert (await queue.ended(job)).attempts == 1


async def test_hints_that_fail_fail_nothing_and_are_not_tried_again_at_every_claim(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("someone/broken", BROKEN_FILE)
    hub.write("alice/secret", b"secret", "private: true")
    (broken,) = await hub.pinned("someone/broken")
    (secret,) = await hub.pinned("alice/secret")
    gone = replace(broken, repo="someone/gone")
    worker = start_worker()
    await queue.ended(await queue.add(a_job(adapters=())))
    hub.requests.forget()

    # They wait behind others all the time, and are hinted at every claim.
    first = [await queue.add(a_job(adapters=(), params=some_params(steps=4))) for _ in range(12)]
    late = [
        await queue.add(
            a_job(adapters=(ref,), sealed_token=Sealer(SECRET).seal("hf_alice") if ref is secret else None)
        )
        for ref in (broken, gone, secret)
    ]
    for job in first:
        assert (await queue.ended(job)).status is JobStatus.SUCCEEDED
    ends = [(await queue.ended(job)).status for job in late]

    assert ends == [JobStatus.FAILED, JobStatus.FAILED, JobStatus.SUCCEEDED]
    assert len(worker.engine.ingested) <= 3  # broken twice: once ahead, once for its job
    assert hub.requests.count(path="*someone/gone*") <= 2
    assert hub.requests.count(path="*alice/secret*") <= 4


async def test_hints_take_no_more_than_the_room_that_nothing_wanted_has(
    queue: QueueUser, start_worker: StartWorker, config: WorkerConfig, hub: Hub
) -> None:
    for name in "abcd":
        hub.write(f"someone/{name}", name.encode() * 400)
    running, *following = await hub.pinned(*(f"someone/{name}" for name in "abcd"))
    worker = start_worker(a_slow_engine(), config=replace(config, ram_budget=1000))
    await queue.ended(await queue.add(a_job(adapters=(running,))))
    await queue.jobs.set_mode(Mode.PAUSED)
    current = await queue.add(endless(adapters=(running,)))
    for ref in following:
        await queue.add(a_job(adapters=(ref,)))
    await queue.jobs.set_mode(Mode.OPEN)

    await queue.drawing(current, steps=20)
    assert metric(worker, "adapter_tier_bytes", tier="ram") == 800
    assert not metric(worker, "adapter_tier_evictions_total", tier="ram")
    assert len(worker.engine.ingested) == 2
    await queue.jobs.cancel(current)

    async def all_are_drawn() -> bool:
        return worker.finished(Outcome.SUCCEEDED) == 4

    await until(all_are_drawn)


async def test_a_job_s_adapters_are_expected_as_long_as_it_is_drawn(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = set[JobId]()

    @contextmanager
    def noted(_executor: object, job: Job) -> Iterator[None]:
        expected.add(job.id)
        yield
        expected.remove(job.id)  # not in a `finally`: what is only forgotten, and collected, has not ended

    monkeypatch.setattr(JobExecutor, "expected", noted)
    worker = start_worker(a_slow_engine())
    job = await queue.add(endless())
    await queue.drawing(job)
    assert expected == {job}
    await queue.jobs.cancel(job)
    await queue.ended(job)
    await worker.stop()
    assert expected == set()


async def test_a_slow_download_holds_up_its_own_job_alone(
    queue: QueueUser, start_worker: StartWorker, hub: Hub, held_downloads: asyncio.Event
) -> None:
    for name in ("slow", "crayon", "ink"):
        hub.write(f"someone/{name}", name.encode())
    slow, crayon, ink = await hub.pinned("someone/slow", "someone/crayon", "someone/ink")
    held_up = await queue.add(a_job(adapters=(slow,)))
    others = [await queue.add(a_job(adapters=(ref,))) for ref in (crayon, ink, crayon)]
    start_worker()

    for job in others:
        assert (await queue.ended(job)).status is JobStatus.SUCCEEDED
    assert (await queue.record(held_up)).status is JobStatus.RUNNING
    held_downloads.set()
    record = await queue.ended(held_up)
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 1)


async def test_the_first_slow_downloads_hold_up_no_claim_and_more_of_them_slow_claiming_down(
    queue: QueueUser,
    start_worker: StartWorker,
    hub: Hub,
    held_downloads: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.loop.GRACE", ENDLESS)
    slow = [f"someone/slow-{number}" for number in range(MOST_FAR + 1)]
    for repo in slow:
        hub.write(repo, repo.encode())
    far = [await queue.add(a_job(adapters=(ref,))) for ref in await hub.pinned(*slow)]
    start_worker()
    await queue.running(*far)
    behind = await queue.add(a_job(adapters=()))
    await asyncio.sleep(0.3)
    assert (await queue.record(behind)).status is JobStatus.QUEUED
    held_downloads.set()
    assert (await queue.ended(behind)).status is JobStatus.SUCCEEDED


async def suspect(queue: QueueUser, **changes: object) -> JobId:
    """Add a job that was held by a worker that died."""
    await queue.jobs.set_mode(Mode.PAUSED)
    job = await queue.add(a_job(**changes))
    await queue.redis.hset(BaseKeys(base_tag(BASE)).job(job), "crashes", "1")
    await queue.jobs.set_mode(Mode.OPEN)
    return job


async def test_what_was_held_by_a_worker_that_died_is_drawn_with_no_other_job_here(
    queue: QueueUser, start_worker: StartWorker, hub: Hub, held_downloads: asyncio.Event
) -> None:
    hub.write("someone/slow", b"slow")
    slow = await queue.add(a_job(adapters=await hub.pinned("someone/slow")))
    worker = start_worker(a_slow_engine())
    await queue.running(slow)
    job = await suspect(queue, adapters=(), params=some_params(steps=ENDLESS))
    await worker.drawing(1)
    assert (await queue.record(job)).status is JobStatus.RUNNING
    assert (await queue.record(slow)).status is JobStatus.QUEUED
    await queue.jobs.cancel(job)
    held_downloads.set()
    record = await queue.ended(slow)
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 1)


async def test_it_is_drawn_once_the_end_of_the_job_before_it_is_recorded(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, may_store = RedisResults.put, asyncio.Event()

    async def slow_put(self: RedisResults, lease: Lease, data: bytes) -> str:
        await may_store.wait()
        return await store(self, lease, data)

    monkeypatch.setattr(RedisResults, "put", slow_put)
    before = await queue.add(a_job(adapters=()))
    worker = start_worker()
    await worker.drawing(1)
    job = await suspect(queue, adapters=())
    await queue.running(job)
    await asyncio.sleep(0.3)
    assert worker.engine.generations == 2  # the warm-up and the one before
    may_store.set()
    for each in (before, job):
        assert (await queue.ended(each)).status is JobStatus.SUCCEEDED


async def test_it_holds_up_nobody_while_it_waits_for_the_hub(
    queue: QueueUser, start_worker: StartWorker, hub: Hub, held_downloads: asyncio.Event
) -> None:
    hub.write("someone/slow", b"slow")
    slow = await suspect(queue, adapters=await hub.pinned("someone/slow"))
    start_worker(a_slow_engine())
    await queue.running(slow)
    for _ in range(3):
        other = await queue.add(a_job(adapters=()))
        assert (await queue.ended(other)).status is JobStatus.SUCCEEDED
    held_downloads.set()
    assert (await queue.ended(slow)).status is JobStatus.SUCCEEDED


async def test_many_downloads_that_hang_hold_up_no_other_download(
    queue: QueueUser, start_worker: StartWorker, hub: Hub, held_downloads: asyncio.Event
) -> None:
    hanging = [f"someone/slow-{number}" for number in range(20)]
    for repo in (*hanging, "someone/crayon"):
        hub.write(repo, repo.encode())
    *slow, crayon = await hub.pinned(*hanging, "someone/crayon")
    start_worker()
    held_up = await queue.add(a_job(adapters=tuple(slow)))

    async def all_hang() -> bool:
        return hub.requests.count(path="*/slow*/resolve/*", method="GET") == len(hanging)

    await until(all_hang)
    assert (await queue.ended(await queue.add(a_job(adapters=(crayon,))))).status is JobStatus.SUCCEEDED
    assert (await queue.record(held_up)).status is JobStatus.RUNNING
    held_downloads.set()
    assert (await queue.ended(held_up)).status is JobStatus.SUCCEEDED


async def test_a_lease_is_kept_while_its_adapter_downloads(
    queue: QueueUser, start_worker: StartWorker, hub: Hub, held_downloads: asyncio.Event
) -> None:
    hub.write("someone/slow", b"slow")
    job = await queue.add(a_job(adapters=await hub.pinned("someone/slow")))
    start_worker()
    await asyncio.sleep(2 * LEASE)
    assert await queue.jobs.reap() == 0
    held_downloads.set()

    record = await queue.ended(job)
    assert (record.status, record.attempts, record.crashes) == (JobStatus.SUCCEEDED, 1, 0)


async def test_a_worker_told_to_stop_gives_back_what_it_does_not_draw_and_ends(
    queue: QueueUser, start_worker: StartWorker, hub: Hub, held_downloads: asyncio.Event
) -> None:
    hub.write("someone/slow", b"slow")
    drawn = await queue.add(a_job(adapters=(), params=some_params(steps=100)))
    worker = start_worker(a_slow_engine())
    await queue.drawing(drawn)
    adapters = await hub.pinned("someone/slow")
    staged = await queue.add(a_job(adapters=adapters))
    await queue.ended(drawn)
    await queue.running(staged)
    assert await worker.stop() is ExitCode.STOPPED
    record = await queue.record(staged)
    assert (record.status, record.attempts) == (JobStatus.QUEUED, 0)


async def stage_slow_ones(queue: QueueUser, hub: Hub, count: int) -> list[JobId]:
    """Add jobs whose adapters do not come, and return them once a worker has claimed them."""
    repos = [f"someone/slow-{number}" for number in range(count)]
    for repo in repos:
        hub.write(repo, repo.encode())
    staged = [await queue.add(a_job(adapters=(ref,))) for ref in await hub.pinned(*repos)]
    await queue.running(*staged)
    return staged


async def test_a_worker_told_to_stop_gives_back_all_at_the_same_time(
    queue: QueueUser,
    start_worker: StartWorker,
    hub: Hub,
    held_downloads: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = start_worker()
    staged = await stage_slow_ones(queue, hub, MOST_FAR)
    under_way = asyncio.Barrier(len(staged))
    release = JobQueue.release

    async def release_with_the_others(jobs: JobQueue, lease: Lease) -> bool:
        await under_way.wait()
        return await release(jobs, lease)

    monkeypatch.setattr(JobQueue, "release", release_with_the_others)
    async with asyncio.timeout(PATIENCE):
        assert await worker.stop() is ExitCode.STOPPED
    for job in staged:
        assert (await queue.record(job)).status is JobStatus.QUEUED
    assert worker.finished(Outcome.RELEASED) == len(staged)


async def test_a_second_signal_is_heard_while_what_is_not_drawn_is_given_back(
    queue: QueueUser,
    start_worker: StartWorker,
    hub: Hub,
    held_downloads: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = start_worker(a_slow_engine())
    (staged,) = await stage_slow_ones(queue, hub, 1)
    drawn = await queue.add(endless())
    await queue.drawing(drawn)
    given_back = asyncio.Event()
    release = JobQueue.release

    async def release_the_drawn_one_first(jobs: JobQueue, lease: Lease) -> bool:
        if lease.job.id == drawn:
            given_back.set()
        await given_back.wait()
        return await release(jobs, lease)

    monkeypatch.setattr(JobQueue, "release", release_the_drawn_one_first)
    worker.app.stop()
    async with asyncio.timeout(PATIENCE / 2):  # less than what the job gets to end
        assert await worker.stop() is ExitCode.STOPPED
    assert worker.finished(Outcome.RELEASED) == 2
    for job in (drawn, staged):
        record = await queue.record(job)
        assert (record.status, record.attempts) == (JobStatus.QUEUED, 0)


async def test_a_process_that_prefetches_ends_promptly_with_0(
    queue: QueueUser, start_process: StartProcess, hub: Hub, held_downloads: asyncio.Event
) -> None:
    hub.write("someone/slow", b"slow")
    current = await queue.add(endless())
    await queue.add(a_job(adapters=await hub.pinned("someone/slow")))
    worker = start_process(
        "--step-seconds", "0.02", variables={"HF_ENDPOINT": hub.url, "WARMBASE_DRAIN": "0.2"}
    )

    async def downloads() -> bool:
        return hub.requests.count(path="*/slow/resolve/*", method="GET") == 1

    await until(downloads)
    assert (await queue.record(current)).status is JobStatus.RUNNING
    worker.process.terminate()
    assert await worker.exit_code() == ExitCode.STOPPED
    assert not held_downloads.is_set()


async def test_on_a_device_hinted_adapters_are_moved_up_and_what_does_not_fit_is_used_from_ram(
    queue: QueueUser, start_worker: StartWorker, config: WorkerConfig, hub: Hub
) -> None:
    hub.write("someone/small", b"s" * 100)
    hub.write("someone/large", b"l" * 300)
    small, large = await hub.pinned("someone/small", "someone/large")
    engine = NullEngine(BASE, device="cuda:0")
    worker = start_worker(engine, config=replace(config, gpu_budget=200))

    for ref in (small, large, small):
        await queue.ended(await queue.add(a_job(adapters=(ref,))))

    assert [[each.raised for each in used] for used in engine.activated if used] == [[True], [False], [True]]
    assert metric(worker, "adapter_tier_bytes", tier="gpu") == 100


async def test_the_idle_time_of_the_device_is_told_by_what_it_waited_for(
    queue: QueueUser, start_worker: StartWorker, hub: Hub, held_downloads: asyncio.Event
) -> None:
    hub.write("someone/slow", b"slow")
    adapters = await hub.pinned("someone/slow")
    for _ in range(3):
        await queue.add(a_job(adapters=()))
    worker = start_worker()
    await queue.ended(await queue.add(a_job(adapters=())))
    waiting = await queue.add(a_job(adapters=adapters))
    await asyncio.sleep(0.3)
    held_downloads.set()
    await queue.ended(waiting)
    await queue.ended(await queue.add(a_job(adapters=())))

    def gaps(reason: str) -> float | None:
        return metric(worker, "compute_gap_seconds_count", reason=reason)

    assert (gaps("turnover") or 0) >= 2
    assert gaps("adapters") == 1
    assert (gaps("work") or 0) >= 1
