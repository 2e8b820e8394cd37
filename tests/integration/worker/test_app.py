"""A worker process that is told to stop: what it says of itself meanwhile, and how it ends."""

import asyncio
from dataclasses import replace
from threading import Event

from shared.config import WorkerConfig
from shared.jobs import JobStatus
from tests.builders import BASE, a_job, some_params
from tests.integration.worker.conftest import QueueUser, StartWorker, until
from tests.null_engine import NullEngine
from worker.exit_codes import ExitCode


async def test_while_its_last_job_is_drawn_a_worker_told_to_stop_is_neither_ready_nor_announced(
    queue: QueueUser, start_worker: StartWorker, config: WorkerConfig
) -> None:
    worker = start_worker(NullEngine(BASE, step_seconds=0.02), config=replace(config, drain=3600.0))
    job = await queue.add(a_job(adapters=(), params=some_params(steps=1_000_000)))
    await queue.drawing(job)
    readiness = worker.app._readiness

    async def is_ready() -> bool:
        return readiness.ready

    await until(is_ready)
    worker.app.stop()
    assert (readiness.ready, readiness.stage) == (False, "draining")

    async def is_withdrawn() -> bool:
        return await queue.pools.live() == ()

    await until(is_withdrawn)
    assert (await queue.record(job)).status is JobStatus.RUNNING
    await queue.jobs.cancel(job)
    assert await worker.running is ExitCode.STOPPED
    assert (await queue.record(job)).status is JobStatus.CANCELLED


class SlowToLoad(NullEngine):
    """Its first image, which is part of loading, comes when told to."""

    def __init__(self) -> None:
        super().__init__(BASE)
        self.loads = Event()

    def generate(self, *arguments: object) -> object:
        self.loads.wait()
        return super().generate(*arguments)


async def test_a_worker_told_to_stop_while_its_base_loads_does_not_wait_for_it(
    start_worker: StartWorker,
) -> None:
    engine = SlowToLoad()
    worker = start_worker(engine)

    async def is_warming_up() -> bool:
        return worker.app._readiness.stage == "warming up"

    await until(is_warming_up)
    try:
        async with asyncio.timeout(10):
            assert await worker.stop() is ExitCode.STOPPED
    finally:
        engine.loads.set()
