"""What becomes of a job whose image finds no room, and where the images are."""

from dataclasses import replace
from pathlib import Path

import redis as blocking_redis

from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.jobs import JobStatus
from shared.results.file_store import FileResults
from tests.builders import a_job
from tests.integration.worker.conftest import QueueUser, StartWorker
from tests.servers import Servers


async def test_an_image_larger_than_all_may_be_fails_its_job_at_once(
    queue: QueueUser, start_worker: StartWorker, config: WorkerConfig
) -> None:
    start_worker(config=replace(config, common=replace(config.common, results_bytes=10)))
    record = await queue.ended(await queue.add(a_job(adapters=())))
    assert (record.status, record.attempts) == (JobStatus.FAILED, 1)
    assert record.error is not None
    assert "WARMBASE_RESULTS_BYTES" in record.error.message


async def test_images_are_written_where_the_url_says(
    queue: QueueUser, start_worker: StartWorker, config: WorkerConfig, tmp_path: Path
) -> None:
    common = replace(config.common, results_url=f"file://{tmp_path}/images")
    start_worker(config=replace(config, common=common))
    record = await queue.ended(await queue.add(a_job(adapters=())))
    assert record.result is not None
    image = await FileResults(tmp_path / "images", ttl=60, most_bytes=1).get(record.result.blob)
    assert len(image) == record.result.size
    assert await queue.blobs() == []


async def test_a_server_for_images_that_is_full_costs_attempts_and_never_the_end_of_a_job(
    queue: QueueUser, start_worker: StartWorker, config: WorkerConfig, tmp_path: Path
) -> None:
    servers = Servers(tmp_path)
    try:
        server = servers.start('save ""', "maxmemory 1", "maxmemory-policy noeviction")
        start_worker(config=replace(config, common=replace(config.common, results_url=server.url)))
        failed = await queue.ended(await queue.add(a_job(adapters=())))
        assert (failed.status, failed.attempts) == (JobStatus.FAILED, 3)
        assert failed.error is not None
        assert failed.error.code is ErrorCode.NO_ROOM
        assert "no room" in failed.error.message
        with blocking_redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", 0)
        assert (await queue.ended(await queue.add(a_job(adapters=())))).status is JobStatus.SUCCEEDED
    finally:
        servers.kill_all()
