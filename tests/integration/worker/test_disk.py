"""The disk tier under real downloads: bounded, shared by processes, and on a disk that is full."""

import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.jobs import JobStatus
from tests.builders import a_job
from tests.integration.worker.conftest import Hub, QueueUser, StartProcess, StartWorker
from worker.disk_tier import DiskTier

FULL = OSError(errno.ENOSPC, "No space left on device")
FILE_BYTES = 1000


@pytest.fixture
def config(config: WorkerConfig, hub: Hub) -> WorkerConfig:
    """Every job comes from disk: RAM holds one adapter."""
    return replace(config, common=replace(config.common, hub=hub.url), ram_budget=FILE_BYTES)


def on_disk(folder: Path | None) -> set[str]:
    assert folder is not None
    return {
        path.parents[1].name.removeprefix("models--someone--") for path in folder.glob("models--*/blobs/*")
    }


def nbytes(folder: Path | None) -> int:
    assert folder is not None
    return sum(path.stat().st_size for path in folder.glob("models--*/blobs/*"))


@pytest.fixture
def write(hub: Hub) -> Callable[[str], None]:
    return lambda name: hub.write(f"someone/{name}", name.encode().ljust(FILE_BYTES))


async def drawn(queue: QueueUser, hub: Hub, *names: str) -> JobStatus:
    adapters = await hub.pinned(*(f"someone/{name}" for name in names))
    return (await queue.ended(await queue.add(a_job(adapters=adapters)))).status


@pytest.fixture
def draw(queue: QueueUser, hub: Hub) -> Callable[..., Awaitable[JobStatus]]:
    async def draw(*names: str) -> JobStatus:
        return await drawn(queue, hub, *names)

    return draw


async def test_the_tier_stays_within_its_bytes_and_what_left_is_downloaded_again(
    start_worker: StartWorker, config: WorkerConfig, hub: Hub, write, draw
) -> None:
    for name in "abcd":
        write(name)
    worker = start_worker(config=replace(config, disk_budget=2 * FILE_BYTES))

    for name in "abcda":
        assert await draw(name) is JobStatus.SUCCEEDED
        assert nbytes(config.disk_folder) <= 2 * FILE_BYTES
    assert on_disk(config.disk_folder) == {"d", "a"}
    assert hub.requests.count(path="*/resolve/*", method="GET") == 5
    await worker.stop()


async def test_a_pinned_repository_s_file_stays(
    start_worker: StartWorker, config: WorkerConfig, write, draw
) -> None:
    for name in "abc":
        write(name)
    start_worker(config=replace(config, disk_budget=2 * FILE_BYTES, pinned=frozenset({"someone/a"})))

    for name in "abc":
        await draw(name)
    assert on_disk(config.disk_folder) == {"a", "c"}


async def test_a_budget_smaller_than_a_file_costs_downloads_and_no_job(
    start_worker: StartWorker, config: WorkerConfig, write, draw
) -> None:
    for name in "ab":
        write(name)
    start_worker(config=replace(config, disk_budget=FILE_BYTES // 2))

    for name in "aba":
        assert await draw(name) is JobStatus.SUCCEEDED


async def test_adapters_of_one_job_that_do_not_fit_on_disk_together_are_read_all_the_same(
    start_worker: StartWorker, config: WorkerConfig, write, draw
) -> None:
    for name in "ab":
        write(name)
    start_worker(config=replace(config, disk_budget=FILE_BYTES, ram_budget=2 * FILE_BYTES))

    assert await draw("a", "b") is JobStatus.SUCCEEDED


async def test_on_a_full_disk_files_that_nobody_uses_make_room(
    start_worker: StartWorker, config: WorkerConfig, write, draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("old")
    write("new")
    start_worker()
    await draw("old")
    download = huggingface_hub.file_download.http_get

    def onto_a_small_disk(*arguments, **options) -> None:
        if on_disk(config.disk_folder) >= {"old"}:
            raise FULL
        download(*arguments, **options)

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", onto_a_small_disk)

    assert await draw("new") is JobStatus.SUCCEEDED
    assert on_disk(config.disk_folder) == {"new"}


async def test_on_a_full_disk_a_file_in_use_stays_and_the_job_says_why_it_failed(
    queue: QueueUser, start_worker: StartWorker, config: WorkerConfig, hub: Hub, write, draw,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write("used")
    write("new")
    start_worker()
    await draw("used")

    def onto_a_full_disk(*_arguments, **_options) -> None:
        raise FULL

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", onto_a_full_disk)
    assert config.disk_folder is not None
    (link,) = config.disk_folder.glob("models--someone--used/snapshots/*/*")
    with DiskTier(config.disk_folder, 1).reading(link):
        job = await queue.add(a_job(adapters=await hub.pinned("someone/new")))
        record = await queue.ended(job)
        assert record.error is not None
        assert record.error.code is ErrorCode.WORKER_FAULT
        assert "disk is full" in record.error.message
        assert link.exists()


async def test_two_processes_share_a_folder_too_small_for_both(
    queue: QueueUser, start_process: StartProcess, config: WorkerConfig, hub: Hub, write
) -> None:
    names = [f"adapter-{number}" for number in range(8)]
    for name in names:
        write(name)
    variables = {
        "HF_ENDPOINT": hub.url,
        "WARMBASE_DISK_FOLDER": os.fspath(config.disk_folder or ""),
        "WARMBASE_DISK_BUDGET": str(6 * FILE_BYTES),
        "WARMBASE_RAM_BUDGET": str(2 * FILE_BYTES),
    }
    for _ in range(2):
        start_process(variables=variables)
    refs = await hub.pinned(*(f"someone/{name}" for name in names))
    jobs = [await queue.add(a_job(adapters=(ref,))) for _ in range(5) for ref in refs]

    ends = [await queue.ended(job) for job in jobs]
    assert {(record.status, record.attempts) for record in ends} == {(JobStatus.SUCCEEDED, 1)}
    assert not list((config.disk_folder or Path()).glob("models--*/blobs/*.incomplete"))


async def test_the_base_s_own_store_is_another_folder(
    start_worker: StartWorker,
    config: WorkerConfig,
    write,
    draw,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", os.fspath(tmp_path / "home" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", os.fspath(tmp_path / "home"))
    write("a")
    start_worker(config=replace(config, disk_folder=None))

    await draw("a")
    assert on_disk(tmp_path / "home" / "warmbase-adapters") == {"a"}
    assert not (tmp_path / "home" / "hub").exists()
