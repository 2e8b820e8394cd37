"""What images are written to is away or hangs, and the server of the queue does not."""

import asyncio
import fcntl
import hashlib
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.jobs import JobStatus
from shared.results.file_store import LOCK
from shared.results.opening import open_results
from tests.builders import BASE, a_job, some_params
from tests.integration.worker.conftest import LEASE, QueueUser, StartProcess, StartWorker
from tests.integration.worker.test_source_pictures import png
from tests.null_engine import NullEngine
from tests.servers import DURABLE, Server, Servers
from worker import settlement
from worker.exit_codes import ExitCode


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Server]:
    """A server for images alone, that is away."""
    servers = Servers(tmp_path)
    server = servers.start(*DURABLE)
    server.kill()
    yield server
    servers.kill_all()


@pytest.fixture
def apart(config: WorkerConfig, store: Server) -> WorkerConfig:
    """The configuration of a worker whose images go there."""
    return replace(config, common=replace(config.common, results_url=store.url))


async def test_an_image_waits_for_its_store_and_its_job_is_not_done_before(
    queue: QueueUser, start_worker: StartWorker, apart: WorkerConfig, store: Server
) -> None:
    worker = start_worker(config=apart)
    job = await queue.add(a_job(adapters=()))
    await worker.drawing(1)
    await asyncio.sleep(1.5 * LEASE)
    assert (await queue.record(job)).status is JobStatus.RUNNING
    store.run()

    record = await queue.ended(job)
    assert (record.status, record.attempts, record.crashes) == (JobStatus.SUCCEEDED, 1, 0)
    assert worker.engine.generations == 2


async def test_a_picture_to_start_from_waits_for_its_store_and_no_attempt_is_spent(
    queue: QueueUser, start_worker: StartWorker, apart: WorkerConfig, store: Server
) -> None:
    start_worker(config=apart)
    data = png()
    digest = hashlib.sha256(data).hexdigest()
    store.run()
    async with open_results(store.url, ttl=60.0, most_bytes=1 << 20) as results:
        await results.put_source(BASE, digest, data, 60.0)
    store.kill()
    job = await queue.add(a_job(adapters=(), params=some_params(source=digest, strength=0.4)))
    await queue.running(job)
    await asyncio.sleep(1.5 * LEASE)
    assert (await queue.record(job)).attempts == 1
    store.run()

    record = await queue.ended(job)
    assert (record.status, record.attempts, record.crashes) == (JobStatus.SUCCEEDED, 1, 0)


async def test_a_store_that_does_not_come_back_in_time_costs_the_job_and_nobody_a_crash(
    queue: QueueUser, start_worker: StartWorker, apart: WorkerConfig
) -> None:
    start_worker(config=apart)
    job = await queue.add(a_job(adapters=(), timeout=2.0))

    record = await queue.ended(job)
    assert record.error is not None
    assert (record.status, record.error.code) == (JobStatus.FAILED, ErrorCode.JOB_EXPIRED)
    assert "image" in record.error.message
    assert record.crashes == 0
    assert await queue.jobs.depth() == (0, 0)


async def test_a_job_that_is_cancelled_meanwhile_ends_without_the_store(
    queue: QueueUser, start_worker: StartWorker, apart: WorkerConfig
) -> None:
    worker = start_worker(NullEngine(BASE), config=apart)
    job = await queue.add(a_job(adapters=(), timeout=3600.0))
    await worker.drawing(1)
    await queue.jobs.cancel(job)

    record = await queue.ended(job)
    assert (record.status, record.crashes) == (JobStatus.CANCELLED, 0)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[str]:
    """The address of a store of files whose lock somebody holds who does not go on."""
    folder = tmp_path / "images"
    folder.mkdir()
    with (folder / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield f"file://{folder}"


@pytest.fixture
def stuck(config: WorkerConfig, hanging: str) -> WorkerConfig:
    """The configuration of a worker whose images go there."""
    return replace(config, common=replace(config.common, results_url=hanging))


async def test_a_store_that_hangs_costs_the_job_and_nobody_a_crash(
    queue: QueueUser, start_worker: StartWorker, stuck: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "SHORTEST_CALL", 0.1)
    start_worker(config=stuck)
    job = await queue.add(a_job(adapters=(), timeout=2.0))

    record = await queue.ended(job)
    assert record.error is not None
    assert (record.status, record.error.code) == (JobStatus.FAILED, ErrorCode.JOB_EXPIRED)
    assert (record.attempts, record.crashes) == (1, 0)
    assert await queue.jobs.depth() == (0, 0)


async def test_a_job_that_is_cancelled_meanwhile_does_not_wait_for_a_store_that_hangs(
    queue: QueueUser, start_worker: StartWorker, stuck: WorkerConfig
) -> None:
    worker = start_worker(NullEngine(BASE), config=stuck)
    job = await queue.add(a_job(adapters=(), timeout=3600.0))
    await worker.drawing(1)
    await queue.jobs.cancel(job)

    record = await queue.ended(job)
    assert (record.status, record.crashes) == (JobStatus.CANCELLED, 0)


async def test_a_worker_told_to_stop_does_not_wait_for_a_store_that_hangs(
    queue: QueueUser, start_process: StartProcess, hanging: str
) -> None:
    worker = start_process(variables={"WARMBASE_RESULTS_URL": hanging, "WARMBASE_DRAIN": "0.2"})
    job = await queue.add(a_job(adapters=(), timeout=3600.0))
    await queue.drawing(job, steps=4)
    worker.signal(signal.SIGTERM)

    assert await worker.exit_code() == ExitCode.STOPPED
    record = await queue.record(job)
    assert (record.status, record.attempts) == (JobStatus.QUEUED, 0)
