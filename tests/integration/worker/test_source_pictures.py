"""Jobs that start from a picture: from the store into the drawing, or to an end that says why not."""

import hashlib
import io

from PIL import Image

from shared.errors import ErrorCode
from shared.jobs import JobId, JobStatus
from tests import null_engine
from tests.builders import BASE, a_job, some_params
from tests.integration.worker.conftest import QueueUser, StartWorker


def png(width: int = 70, height: int = 50) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


async def add(queue: QueueUser, data: bytes, *, kept: bytes | None = None, **changes: object) -> JobId:
    """Add a job that starts from `data`; `kept` lies in the store in its place."""
    params = some_params(source=hashlib.sha256(data).hexdigest(), strength=0.4, **changes)
    job = a_job(adapters=(), params=params)
    await queue.results.put_source(BASE, str(params.source), data if kept is None else kept, 60.0)
    return await queue.add(job)


async def test_a_picture_is_drawn_from_in_its_own_size(queue: QueueUser, start_worker: StartWorker) -> None:
    start_worker()
    data = png()
    record = await queue.ended(await add(queue, data))

    assert record.result is not None
    assert (record.result.width, record.result.height, record.result.strength) == (64, 48, 0.4)
    drawn = null_engine.read(await queue.results.get(record.result.blob))
    assert (drawn["source"], drawn["strength"]) == (hashlib.sha256(data).hexdigest(), 0.4)


async def test_a_picture_is_made_the_size_that_is_asked_for_before_it_is_drawn_from(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    start_worker()
    record = await queue.ended(await add(queue, png(), width=32))

    assert record.result is not None
    assert (record.result.width, record.result.height) == (32, 48)


async def test_a_worker_says_that_its_base_draws_from_pictures(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    start_worker()
    await queue.ended(await add(queue, png()))
    (pool,) = await queue.pools.live()
    assert pool.workers[0].image_to_image


async def test_a_picture_that_cannot_be_read_is_refused_by_its_field_and_nothing_is_drawn(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    worker = start_worker()
    record = await queue.ended(await add(queue, png()[:60]))

    assert record.error is not None
    assert (record.error.code, record.error.field) == (ErrorCode.INVALID_REQUEST, "inputs")
    assert record.attempts == 1
    assert worker.engine.generations == 1  # the warm-up
    assert (await queue.ended(await add(queue, png()))).status is JobStatus.SUCCEEDED


async def test_a_picture_that_is_gone_ends_the_job_at_once(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    start_worker()
    job = a_job(adapters=(), params=some_params(source="0" * 64))
    record = await queue.ended(await queue.add(job))

    assert record.error is not None
    assert (record.error.code, record.attempts) == (ErrorCode.RESULT_GONE, 1)
    assert "send the request again" in record.error.message


async def test_another_picture_than_the_requests_is_never_drawn_from(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    start_worker()
    record = await queue.ended(await add(queue, png(), kept=png(64, 64)))

    assert record.error is not None
    assert record.error.code is ErrorCode.RESULT_GONE


async def test_equal_jobs_draw_equal_images_and_another_picture_another(
    queue: QueueUser, start_worker: StartWorker
) -> None:
    start_worker()
    images = []
    for data in (png(), png(), png(64, 48)):
        record = await queue.ended(await add(queue, data))
        assert record.result is not None
        images.append(await queue.results.get(record.result.blob))
    assert images[0] == images[1] != images[2]
