"""One worker and one job: how it ends, and what is left of it."""

import hashlib
import time
import weakref
from dataclasses import replace

import pytest
from PIL import Image

from shared.errors import ErrorCode
from shared.jobs import GenerationParams, ImageFormat, JobStatus
from shared.queue.keys import BaseKeys
from shared.refs import base_tag
from tests import null_engine
from tests.builders import BASE, a_job, some_params
from tests.integration.worker.conftest import LEASE, QueueUser, StartWorker, until
from tests.null_engine import BASE_REVISION, NullEngine
from worker import executor, loop, settlement
from worker.engine.contract import Generated, StepCallback
from worker.exit_codes import ExitCode
from worker.metrics import Outcome


async def test_a_job_runs_to_its_image_and_a_record_that_says_what_ran(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    start_worker(NullEngine(BASE, steps=3))
    params = some_params(prompt="a blue square", seed=11)

    record = await queue.ended(await queue.add(a_job(adapters=(), params=params)))

    assert record.status is JobStatus.SUCCEEDED
    assert (record.attempts, record.crashes) == (1, 0)
    result = record.result
    assert result is not None
    image = await queue.results.get(result.blob)
    assert null_engine.read(image) == {"adapters": [], "prompt": "a blue square", "seed": 11}
    assert (result.size, result.digest) == (len(image), hashlib.sha256(image).hexdigest())
    assert (result.seed, result.steps, result.base_revision) == (11, 3, BASE_REVISION)
    assert result.media_type == "image/png"
    assert result.timings.inference > 0


@pytest.mark.parametrize("image_format", ImageFormat)
async def test_the_image_has_the_format_that_was_asked_for(
    queue: QueueUser, start_worker: StartWorker, image_format: ImageFormat
) -> None:
    start_worker()

    record = await queue.ended(
        await queue.add(a_job(adapters=(), params=some_params(image_format=image_format)))
    )

    assert record.result is not None
    assert record.result.media_type == image_format.media_type


class Drawing(Image.Image):
    """A stand-in for what a drawing needs of memory."""


class OutOfMemory(NullEngine):
    """Fails in the middle of a drawing, and notes whether that one's memory is there to check the base in."""

    is_free: bool | None = None

    def generate(
        self, params: GenerationParams, on_step: StepCallback, source: Image.Image | None = None
    ) -> Generated:
        if params.prompt == "too much":
            drawing = Drawing()
            self.kept = weakref.ref(drawing)
            raise RuntimeError("out of memory")
        return super().generate(params, on_step, source)

    def verify(self) -> None:
        super().verify()
        self.is_free = self.kept() is None


async def test_the_base_is_checked_when_a_failed_drawing_has_let_its_memory_go(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.logger, "disabled", True)  # pytest keeps what is logged, and the frames in it
    worker = start_worker(OutOfMemory(BASE))
    await queue.ended(await queue.add(a_job(adapters=(), params=some_params(prompt="too much"))))

    assert worker.engine.is_free


async def test_the_next_job_runs_after_each_kind_of_failure(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    worker = start_worker()
    refused = await queue.add(a_job(adapters=(), params=some_params(prompt=null_engine.REFUSE)))
    broken = await queue.add(a_job(adapters=(), params=some_params(prompt=null_engine.BREAK)))
    raised = await queue.add(a_job(adapters=(), params=some_params(prompt=null_engine.RAISE)))
    fine = await queue.add(a_job(adapters=()))

    assert (await queue.ended(fine)).status is JobStatus.SUCCEEDED
    errors = [(await queue.ended(job)) for job in (refused, broken, raised)]
    assert [record.error.code for record in errors if record.error] == [
        ErrorCode.INVALID_REQUEST,
        ErrorCode.WORKER_FAULT,
        ErrorCode.WORKER_FAULT,
    ]
    assert [record.attempts for record in errors] == [1, 1, 3]
    # the last check comes after its job's end is told
    assert await worker.stop() is ExitCode.STOPPED
    assert worker.engine.verifications == 3


async def test_the_base_is_checked_now_and_then_although_nothing_went_wrong(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "CHECK_AFTER_JOBS", 2)
    worker = start_worker()
    for _ in range(5):
        await queue.ended(await queue.add(a_job(adapters=())))
    assert await worker.stop() is ExitCode.STOPPED
    assert worker.engine.verifications == 2


async def test_and_once_when_there_is_nothing_to_do(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "CHECK_WHEN_IDLE_AFTER", 0.0)
    worker = start_worker()
    await queue.ended(await queue.add(a_job(adapters=())))

    async def is_checked() -> bool:
        return worker.engine.verifications > 0

    await until(is_checked)
    assert await worker.stop() is ExitCode.STOPPED
    assert worker.engine.verifications == 1


async def test_what_an_unforeseen_error_says_stays_in_the_log(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    start_worker()

    record = await queue.ended(
        await queue.add(a_job(adapters=(), params=some_params(prompt=null_engine.RAISE)))
    )

    assert record.error is not None
    assert "secret" not in record.error.message
    assert "on fire" not in record.error.message


async def test_what_is_tried_again_lets_others_go_first_for_a_while(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "retry_delay", lambda _attempt: 3600.0)
    start_worker()
    failing = await queue.add(a_job(adapters=(), params=some_params(prompt=null_engine.RAISE)))
    other = await queue.add(a_job(adapters=()))

    assert (await queue.ended(other)).status is JobStatus.SUCCEEDED
    record = await queue.record(failing)
    assert (record.status, record.attempts) == (JobStatus.QUEUED, 1)


async def test_a_damaged_base_ends_the_process_and_the_job_may_run_elsewhere(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    worker = start_worker()
    job = await queue.add(a_job(adapters=(), params=some_params(prompt=null_engine.DAMAGE)))

    assert await worker.running is ExitCode.BASE_DAMAGED
    record = await queue.record(job)
    assert (record.status, record.crashes) == (JobStatus.QUEUED, 0)
    assert await queue.pools.live() == ()


async def test_a_base_that_cannot_be_loaded_ends_the_process_before_it_is_announced(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    class Unloadable(NullEngine):
        def generate(self, *_arguments: object) -> None:
            raise RuntimeError("no kernel image is available")

    job = await queue.add(a_job(adapters=()))
    worker = start_worker(Unloadable(BASE))

    assert await worker.running is ExitCode.BASE_NOT_LOADED
    assert await queue.pools.live() == ()
    assert (await queue.record(job)).attempts == 0


async def test_a_waiting_job_that_is_cancelled_never_runs(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    worker = start_worker(NullEngine(BASE, step_seconds=0.02, steps=10))
    first = await queue.add(a_job(adapters=()))
    second = await queue.add(a_job(adapters=()))
    await queue.jobs.cancel(second)

    assert (await queue.ended(first)).status is JobStatus.SUCCEEDED
    assert (await queue.record(second)).status is JobStatus.CANCELLED
    await worker.stop()
    assert worker.engine.generations == 2  # the warm-up and the first job


async def test_a_running_job_that_is_cancelled_stops_at_a_step_and_the_worker_goes_on(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    worker = start_worker(NullEngine(BASE, step_seconds=0.02))
    endless = await queue.add(a_job(adapters=(), params=some_params(steps=1_000_000)))
    await queue.drawing(endless)
    await queue.jobs.cancel(endless)

    assert (await queue.ended(endless)).status is JobStatus.CANCELLED
    after = await queue.ended(await queue.add(a_job(adapters=())))
    assert after.status is JobStatus.SUCCEEDED
    assert worker.finished(Outcome.CANCELLED) == 1
    assert len(await queue.blobs()) == 1


async def test_a_cancel_takes_effect_before_the_next_heartbeat(
    queue: QueueUser, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a lease of an hour the next heartbeat is minutes away: only the control channel can tell.
    slow = replace(queue.jobs._settings, lease=3600.0)
    monkeypatch.setattr(queue.jobs, "_settings", slow)
    engine = NullEngine(BASE, step_seconds=0.02)
    worker = start_worker(engine, settings=slow)
    job = await queue.add(a_job(adapters=(), params=some_params(steps=1_000_000)))

    async def is_drawn_and_listened_for() -> bool:
        # the worker draws without waiting for its subscription, and what is published before is lost
        ((_, listeners),) = await queue.redis.pubsub_numsub(BaseKeys(base_tag(BASE)).control)
        return engine.generations == 2 and listeners == 1

    await until(is_drawn_and_listened_for)
    await queue.jobs.cancel(job)

    assert (await queue.ended(job)).status is JobStatus.CANCELLED
    assert worker.finished(Outcome.CANCELLED) == 1


async def test_a_worker_that_lost_its_lease_stops_and_writes_nothing(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    worker = start_worker(NullEngine(BASE, step_seconds=0.02))
    job = await queue.add(a_job(adapters=(), params=some_params(steps=1_000_000)))
    await queue.drawing(job)
    await queue.redis.flushdb()  # the server has forgotten the job, and with it the lease

    after = await queue.ended(await queue.add(a_job(adapters=())))
    assert after.status is JobStatus.SUCCEEDED
    assert worker.finished(Outcome.LOST) == 1
    assert await queue.jobs.records([job]) == [None]
    assert len(await queue.blobs()) == 1


async def test_the_lease_is_kept_while_the_main_loop_is_blocked(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    start_worker(NullEngine(BASE, step_seconds=0.05))
    job = await queue.add(a_job(adapters=(), params=some_params(steps=int(2.5 * LEASE / 0.05))))
    await queue.drawing(job)
    time.sleep(1.5 * LEASE)  # noqa: ASYNC251 - the fault that is tested

    record = await queue.ended(job)
    assert record.status is JobStatus.SUCCEEDED
    assert (record.attempts, record.crashes) == (1, 0)
