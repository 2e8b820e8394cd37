"""Jobs with adapters: from a Hub over its own wire to what the engine is given."""

import asyncio
import errno
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from deploy.local_hub.faults import FaultRule
from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.jobs import Job, JobId, JobRecord, JobStatus
from shared.queue.queue import JobQueue
from shared.queue.terms import Claim
from shared.sealing import Sealer
from tests import null_engine
from tests.builders import BASE, a_job, some_params
from tests.integration.worker.conftest import SECRET, Hub, LocalWorker, QueueUser, StartWorker, until
from tests.null_engine import BROKEN_FILE, PARTIAL_FILE, NullAdapter, NullEngine
from worker.engine.contract import Activation, SwapReport
from worker.exit_codes import ExitCode
from worker.metrics import Outcome

CRAYON = b"the weights of crayon"
INK = b"the weights of ink"
MOST_REPOS = 4
GET_FILE = {"path": "*/resolve/*", "method": "GET"}


@pytest.fixture
def config(config: WorkerConfig, hub: Hub) -> WorkerConfig:
    return replace(config, common=replace(config.common, hub=hub.url))


async def ended(queue: QueueUser, job: Job) -> JobRecord:
    return await queue.ended(await queue.add(job))


async def drawn_with(queue: QueueUser, record: JobRecord) -> list[list[object]]:
    assert record.result is not None, record.error
    spelled = null_engine.read(await queue.results.get(record.result.blob))
    adapters: list[list[object]] = spelled["adapters"]
    return adapters


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_the_result_says_what_of_an_adapter_could_not_be_used(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("someone/crayon", PARTIAL_FILE)
    hub.write("someone/ink", INK)
    start_worker()

    record = await ended(queue, a_job(adapters=await hub.pinned("someone/ink", "someone/crayon")))

    assert record.result is not None
    assert record.result.warnings == ("someone/crayon: a part of it cannot be used",)


async def test_adapters_are_active_in_order_and_at_the_strengths_of_the_job(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("someone/crayon", CRAYON)
    hub.write("someone/ink", INK)
    ink, crayon = await hub.pinned("someone/ink", "someone/crayon")
    adapters = (replace(ink, scale=0.5), replace(crayon, scale=-1.0))
    start_worker()

    record = await ended(queue, a_job(adapters=adapters))

    assert await drawn_with(queue, record) == [[digest(INK), 0.5], [digest(CRAYON), -1.0]]
    assert record.result is not None
    assert record.result.adapters == adapters
    bare = await ended(queue, a_job(adapters=()))
    assert await drawn_with(queue, bare) == []


class SlowToHash(NullEngine):
    """Its adapters' digests come when they are set."""

    def __init__(self) -> None:
        super().__init__(BASE)
        self.pending: list[Future[str]] = []

    def ingest(self, path: Path) -> NullAdapter:
        self.pending.append(Future())
        return replace(super().ingest(path), digest=self.pending[-1])

    def activate(self, _wanted: Sequence[Activation[NullAdapter]]) -> SwapReport:
        return super().activate(())  # for its pictures spell the digests of what is active


async def test_a_digest_may_come_after_the_image_and_the_next_job_is_drawn_meanwhile(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("someone/crayon", CRAYON)
    adapters = await hub.pinned("someone/crayon")
    engine = SlowToHash()
    worker = start_worker(engine)

    first = await queue.add(a_job(adapters=adapters))
    second = await queue.add(a_job(adapters=()))
    await worker.drawing(2)
    assert not (await queue.record(first)).status.is_end
    (pending,) = engine.pending
    pending.set_result(digest(CRAYON))

    record = await queue.ended(first)
    assert record.result is not None
    assert record.result.adapter_digests == (digest(CRAYON),)
    assert (await queue.ended(second)).status is JobStatus.SUCCEEDED


async def test_an_adapter_is_fetched_and_ingested_once_whatever_its_strength(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("someone/crayon", CRAYON)
    (crayon,) = await hub.pinned("someone/crayon")
    worker = start_worker()

    for scale in (1.0, 0.3, -2.0):
        await ended(queue, a_job(adapters=(replace(crayon, scale=scale),)))

    assert len(worker.engine.ingested) == 1
    assert hub.requests.count(**GET_FILE) == 1


async def test_what_is_on_disk_is_served_while_the_hub_is_down(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("someone/crayon", CRAYON)
    adapters = await hub.pinned("someone/crayon")
    first = start_worker()
    await ended(queue, a_job(adapters=adapters))
    await first.stop()
    hub.faults.add(FaultRule(status=503))
    start_worker()

    assert (await ended(queue, a_job(adapters=adapters))).status is JobStatus.SUCCEEDED


async def refused(queue: QueueUser, job: Job, code: ErrorCode) -> str:
    record = await ended(queue, job)
    assert record.error is not None
    assert (record.status, record.error.code) == (JobStatus.FAILED, code)
    assert "/tmp" not in record.error.message  # noqa: S108 - no path reaches a client
    assert "http" not in record.error.message
    return record.error.message


async def test_a_broken_weight_file_fails_its_job_for_good(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("someone/broken", BROKEN_FILE)
    job = a_job(adapters=await hub.pinned("someone/broken"))
    worker = start_worker()

    message = await refused(queue, job, ErrorCode.ADAPTER_REJECTED)

    assert message == "someone/broken: lora.safetensors: not a whole safetensors file"
    assert (await queue.record(job.id)).attempts == 1
    assert worker.engine.verifications == 0


async def test_a_file_that_is_too_large_is_refused_before_it_is_downloaded(
    queue: QueueUser, start_worker: StartWorker, config: WorkerConfig, hub: Hub
) -> None:
    hub.write("someone/large", bytes(1001))
    job = a_job(adapters=await hub.pinned("someone/large"))
    start_worker(config=replace(config, max_adapter_bytes=1000))

    message = await refused(queue, job, ErrorCode.ADAPTER_REJECTED)

    assert "1001 bytes" in message
    assert hub.requests.count(**GET_FILE) == 0


async def test_a_file_on_disk_is_held_to_the_size_limit_too(
    queue: QueueUser, start_worker: StartWorker, config: WorkerConfig, hub: Hub
) -> None:
    hub.write("someone/large", bytes(1001))
    adapters = await hub.pinned("someone/large")
    generous = start_worker()
    await ended(queue, a_job(adapters=adapters))
    await generous.stop()
    start_worker(config=replace(config, max_adapter_bytes=1000))

    await refused(queue, a_job(adapters=adapters), ErrorCode.ADAPTER_REJECTED)


async def test_a_failure_in_the_moment_of_a_stop_is_recorded_before_the_worker_ends(
    queue: QueueUser, start_worker: StartWorker, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.write("someone/broken", BROKEN_FILE)
    fail, failing, may_fail = JobQueue.fail, asyncio.Event(), asyncio.Event()

    async def slow_fail(*arguments: Any, **named: Any) -> bool:
        failing.set()
        await may_fail.wait()
        return await fail(*arguments, **named)

    monkeypatch.setattr(JobQueue, "fail", slow_fail)
    worker = start_worker()
    job = await queue.add(a_job(adapters=await hub.pinned("someone/broken")))
    await failing.wait()
    worker.app.stop()
    done, _ = await asyncio.wait([worker.running], timeout=0.5)
    assert not done
    may_fail.set()

    assert await worker.running is ExitCode.STOPPED
    assert (await queue.record(job)).status is JobStatus.FAILED


@pytest.mark.parametrize("change", [{"repo": "someone/nothing"}, {"weight_name": "other.safetensors"}])
async def test_what_is_not_on_the_hub_fails_its_job_for_good(
    queue: QueueUser,
    start_worker: StartWorker,
    hub: Hub,
    change: dict[str, str],
) -> None:
    hub.write("someone/crayon", CRAYON)
    (crayon,) = await hub.pinned("someone/crayon")
    start_worker()

    await refused(queue, a_job(adapters=(replace(crayon, **change),)), ErrorCode.REPO_NOT_FOUND)


async def test_a_hub_that_does_not_answer_is_asked_again_in_further_attempts(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("someone/crayon", CRAYON)
    adapters = await hub.pinned("someone/crayon")
    hub.faults.add(FaultRule(status=500, times=1))
    start_worker()

    record = await ended(queue, a_job(adapters=adapters))

    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 2)


async def test_a_private_file_is_downloaded_with_the_caller_s_own_token(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("alice/secret", CRAYON, "private: true")
    adapters = await hub.pinned("alice/secret")
    start_worker()

    record = await ended(queue, a_job(adapters=adapters, sealed_token=Sealer(SECRET).seal("hf_alice")))

    assert await drawn_with(queue, record) == [[digest(CRAYON), 1.0]]
    assert {request.user for request in hub.requests.matching(**GET_FILE)} == {"alice"}


@pytest.mark.parametrize(
    ("access", "code"),
    [("private: true", ErrorCode.REPO_NOT_FOUND), ("gated: manual", ErrorCode.REPO_FORBIDDEN)],
)
async def test_a_stranger_s_token_opens_nothing(
    queue: QueueUser,
    start_worker: StartWorker,
    hub: Hub,
    access: str,
    code: ErrorCode,
) -> None:
    hub.write("alice/secret", CRAYON, access)
    adapters = await hub.pinned("alice/secret")
    start_worker()

    await refused(queue, a_job(adapters=adapters, sealed_token=Sealer(SECRET).seal("hf_bob")), code)


async def test_the_deployment_s_own_token_never_opens_a_caller_s_repository(
    queue: QueueUser,
    start_worker: StartWorker,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    hub.write("alice/secret", CRAYON, "private: true")
    adapters = await hub.pinned("alice/secret")
    start_worker()

    await refused(queue, a_job(adapters=adapters), ErrorCode.REPO_NOT_FOUND)


@pytest.mark.parametrize("secret", ["", "another secret"])
async def test_a_worker_that_cannot_open_the_token_says_so(
    queue: QueueUser,
    start_worker: StartWorker,
    config: WorkerConfig,
    hub: Hub,
    secret: str,
) -> None:
    hub.write("alice/secret", CRAYON, "private: true")
    adapters = await hub.pinned("alice/secret")
    start_worker(config=replace(config, common=replace(config.common, secret=secret)))
    job = a_job(adapters=adapters, sealed_token=Sealer(SECRET).seal("hf_alice"))

    assert "WARMBASE_SECRET" in await refused(queue, job, ErrorCode.WORKER_FAULT)


async def test_a_job_that_is_cancelled_while_it_downloads_does_not_hold_up_the_next(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("someone/crayon", CRAYON)
    adapters = await hub.pinned("someone/crayon")
    released = asyncio.Event()

    async def wait(_seconds: float) -> None:
        await released.wait()

    hub.faults.sleep = wait
    hub.faults.add(FaultRule(**GET_FILE, latency_s=1.0))
    start_worker()
    slow = await queue.add(a_job(adapters=adapters))

    async def downloads() -> bool:
        return hub.requests.count(**GET_FILE) == 1

    await until(downloads)
    await queue.jobs.cancel(slow)
    assert (await queue.ended(slow)).status is JobStatus.CANCELLED
    assert (await ended(queue, a_job(adapters=()))).status is JobStatus.SUCCEEDED

    released.set()
    assert (await ended(queue, a_job(adapters=adapters))).status is JobStatus.SUCCEEDED
    assert hub.requests.count(**GET_FILE) == 1


async def test_a_claim_names_what_is_in_ram_the_latest_drawn_first(
    queue: QueueUser,
    start_worker: StartWorker,
    config: WorkerConfig,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim, hot_at = JobQueue.claim, dict[JobId, tuple[str, ...]]()

    async def noted_claim(*arguments: Any, hot: tuple[str, ...]) -> Claim:
        claimed = await claim(*arguments, hot=hot)
        hot_at.update((lease.job.id, hot) for lease in claimed.leases)
        return claimed

    monkeypatch.setattr(JobQueue, "claim", noted_claim)
    for name in "abc":
        hub.write(f"someone/{name}", name.encode() * 400)
    jobs = [a_job(adapters=(ref,)) for ref in await hub.pinned("someone/a", "someone/b", "someone/c")]
    start_worker(config=replace(config, ram_budget=1000))
    for job in jobs:
        await ended(queue, job)
    following = a_job(adapters=())
    await ended(queue, following)

    _, second, third = jobs
    assert hot_at[following.id] == (third.affinity, second.affinity)


def metric(worker: LocalWorker, name: str, **labels: str) -> float | None:
    return worker.app._metrics.registry.get_sample_value(f"warmbase_{name}", {"base_model": BASE, **labels})


async def test_the_metrics_tell_hits_misses_bytes_and_evictions(
    queue: QueueUser, start_worker: StartWorker, config: WorkerConfig, hub: Hub
) -> None:
    hub.write("someone/crayon", CRAYON)
    hub.write("someone/ink", INK)
    crayon, ink = await hub.pinned("someone/crayon", "someone/ink")
    worker = start_worker(config=replace(config, ram_budget=len(CRAYON)))

    for ref in (crayon, crayon, ink):
        await ended(queue, a_job(adapters=(ref,)))
    await worker.stop()

    assert metric(worker, "adapter_tier_misses_total", tier="ram") == 2
    assert metric(worker, "adapter_tier_hits_total", tier="ram") == 1
    assert metric(worker, "adapter_tier_evictions_total", tier="ram") == 1
    assert metric(worker, "adapter_tier_bytes", tier="ram") == len(INK)
    assert metric(worker, "adapter_tier_misses_total", tier="disk") == 2
    assert metric(worker, "images_total") == 3
    assert b"crayon" not in worker.app._metrics.exposition()


async def test_adapters_that_draw_nothing_fail_their_job_for_good(
    queue: QueueUser, start_worker: StartWorker, hub: Hub
) -> None:
    hub.write("someone/crayon", CRAYON)
    adapters = await hub.pinned("someone/crayon")
    start_worker()
    job = a_job(adapters=adapters, params=some_params(prompt=null_engine.BREAK))

    assert "someone/crayon" in await refused(queue, job, ErrorCode.ADAPTER_REJECTED)


async def test_adapters_that_are_too_large_together_are_refused_before_any_is_downloaded(
    queue: QueueUser, start_worker: StartWorker, config: WorkerConfig, hub: Hub
) -> None:
    hub.write("someone/crayon", bytes(600))
    hub.write("someone/ink", bytes(500))
    crayon, ink = await hub.pinned("someone/crayon", "someone/ink")
    start_worker(config=replace(config, ram_budget=1099))

    message = await refused(queue, a_job(adapters=(crayon, ink)), ErrorCode.ADAPTER_REJECTED)

    for part in ("1100 bytes", "someone/crayon 600", "someone/ink 500", "1099"):
        assert part in message
    assert hub.requests.count(**GET_FILE) == 0
    twice = (replace(crayon, scale=0.5), replace(crayon, scale=0.25))
    assert (await ended(queue, a_job(adapters=twice))).status is JobStatus.SUCCEEDED
    await refused(queue, a_job(adapters=(crayon, ink)), ErrorCode.ADAPTER_REJECTED)


@pytest.fixture
def hanging_downloads(hub: Hub) -> Iterator[asyncio.Event]:
    """Every download waits until this is set."""
    released = asyncio.Event()

    async def wait(_seconds: float) -> None:
        await released.wait()

    hub.faults.sleep = wait
    hub.faults.add(FaultRule(**GET_FILE, latency_s=1.0))
    yield released
    released.set()


async def test_a_job_whose_timeout_passes_while_it_downloads_ends_expired(
    queue: QueueUser, start_worker: StartWorker, hub: Hub, hanging_downloads: asyncio.Event
) -> None:
    hub.write("someone/crayon", CRAYON)
    job = a_job(adapters=await hub.pinned("someone/crayon"), timeout=3.0)
    worker = start_worker()
    await ended(queue, a_job(adapters=()))  # so that the worker is there, and claims the job in time

    assert "what it needs was fetched" in await refused(queue, job, ErrorCode.JOB_EXPIRED)

    assert not hanging_downloads.is_set()
    assert (await queue.record(job.id)).attempts == 1
    await ended(queue, a_job(adapters=()))
    assert worker.finished(Outcome.FAILED) == 1


async def test_downloads_that_hang_do_not_hold_up_the_image_of_the_next_job(
    queue: QueueUser, start_worker: StartWorker, hub: Hub, hanging_downloads: asyncio.Event
) -> None:
    repos = [f"someone/slow-{number}" for number in range(MOST_REPOS)]
    for repo in repos:
        hub.write(repo, repo.encode())
    start_worker()
    slow = await queue.add(a_job(adapters=await hub.pinned(*repos)))

    async def all_download() -> bool:
        return hub.requests.count(**GET_FILE) == MOST_REPOS

    await until(all_download)
    await queue.jobs.cancel(slow)

    assert (await ended(queue, a_job(adapters=()))).status is JobStatus.SUCCEEDED
    assert not hanging_downloads.is_set()


async def test_a_full_disk_costs_an_attempt_and_leaves_the_base_beyond_doubt(
    queue: QueueUser, start_worker: StartWorker, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.write("someone/crayon", CRAYON)
    job = a_job(adapters=await hub.pinned("someone/crayon"))

    def write_to_a_full_disk(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", write_to_a_full_disk)
    worker = start_worker()

    assert "disk is full" in await refused(queue, job, ErrorCode.WORKER_FAULT)
    assert (await queue.record(job.id)).attempts == 3
    assert worker.engine.verifications == 0
