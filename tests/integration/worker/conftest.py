"""A queue on a real server, a Hub with real repositories, and workers around the null engine."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import huggingface_hub
import psutil
import pytest
from redis.asyncio import Redis

from deploy.local_hub.faults import Faults
from deploy.local_hub.request_log import RequestLog
from deploy.local_hub.server import LocalHubConfig, serve
from shared.config import WorkerConfig
from shared.jobs import Job, JobId, JobRecord, JobStatus
from shared.pools import PoolDirectory
from shared.queue.queue import JobQueue
from shared.queue.terms import QueueSettings
from shared.redis_client import command_client
from shared.refs import AdapterRef, RepoId, Revision, base_tag
from shared.results.redis_store import RedisResults
from tests.builders import BASE, a_worker_config
from tests.null_engine import NullEngine
from worker.app import WorkerApp
from worker.exit_codes import ExitCode
from worker.metrics import Outcome

TAG = base_tag(BASE)
SECRET = "a secret of the tests"
LEASE = 2.0
PATIENCE = 90.0
WEIGHT_NAME = "lora.safetensors"
ROOT = Path(__file__).parents[3]

Condition = Callable[[], Awaitable[bool]]


async def until(condition: Condition) -> None:
    """Wait until `condition` holds; an error when it never does."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - what is awaited happens in other processes
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class QueueUser:
    """What a router does with a queue, for tests to do."""

    jobs: JobQueue
    results: RedisResults
    pools: PoolDirectory
    redis: Redis

    async def add(self, job: Job) -> JobId:
        await self.jobs.enqueue(job)
        return job.id

    async def record(self, job: JobId) -> JobRecord:
        (record,) = await self.jobs.records([job])
        assert record is not None
        return record

    async def ended(self, job: JobId) -> JobRecord:
        async def is_over() -> bool:
            return (await self.record(job)).status.is_end

        await until(is_over)
        return await self.record(job)

    async def running(self, *jobs: JobId) -> None:
        """Return once a worker has claimed all of these."""

        async def are_claimed() -> bool:
            return all([(await self.record(job)).status is JobStatus.RUNNING for job in jobs])

        await until(are_claimed)

    async def drawing(self, job: JobId, steps: int = 1) -> None:
        """Return once a heartbeat has told of `steps` steps."""

        async def has_begun() -> bool:
            progress = (await self.record(job)).progress
            return progress is not None and progress[0] >= steps

        await until(has_begun)

    async def blobs(self) -> list[bytes]:
        return [key async for key in self.redis.scan_iter("warmbase:*:blob:*")]


def queue_user(redis: Redis, settings: QueueSettings) -> QueueUser:
    """Return the user of the queue on the server of `redis`."""
    return QueueUser(
        JobQueue(redis, TAG, settings),
        RedisResults(redis, ttl=settings.record_ttl, most_bytes=1 << 30),
        PoolDirectory(redis),
        redis,
    )


@pytest.fixture
def settings() -> QueueSettings:
    return QueueSettings(lease=LEASE)


@pytest.fixture
async def queue(redis_url: str, settings: QueueSettings) -> AsyncIterator[QueueUser]:
    async with command_client(redis_url) as redis:
        yield queue_user(redis, settings)


@pytest.fixture
def config(redis_url: str, tmp_path: Path) -> WorkerConfig:
    config = a_worker_config(tmp_path / "adapters", redis_url, drain=PATIENCE, stall=PATIENCE)
    return replace(config, common=replace(config.common, secret=SECRET))


@dataclass(slots=True)
class LocalWorker:
    """A worker on the event loop of the test."""

    app: WorkerApp
    engine: NullEngine
    running: asyncio.Task[ExitCode]

    async def stop(self) -> ExitCode:
        self.app.stop()
        return await self.running

    async def drawing(self, jobs: int) -> None:
        """Return once the engine has begun so many images after its warm-up."""

        async def have_begun() -> bool:
            return self.engine.generations == 1 + jobs

        await until(have_begun)

    def finished(self, outcome: Outcome) -> float:
        labels = {"base_model": BASE, "outcome": outcome}
        registry = self.app._metrics.registry
        return registry.get_sample_value("warmbase_attempts_finished_total", labels) or 0.0


StartWorker = Callable[..., LocalWorker]


@pytest.fixture
async def start_worker(config: WorkerConfig, settings: QueueSettings) -> AsyncIterator[StartWorker]:
    """Start a worker: its engine, and configuration or settings other than the usual ones."""
    workers: list[LocalWorker] = []

    def start(
        engine: NullEngine | None = None,
        config: WorkerConfig = config,
        settings: QueueSettings = settings,
    ) -> LocalWorker:
        engine = engine or NullEngine(BASE)
        app = WorkerApp(config, lambda _on_stage: engine, settings)
        workers.append(LocalWorker(app, engine, asyncio.create_task(app.run())))
        return workers[-1]

    yield start
    for worker in workers:
        if not worker.running.done():
            worker.app.stop()
            worker.app.stop()
        await asyncio.wait([worker.running])


@dataclass(slots=True)
class WorkerProcess:
    """A worker in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        return await asyncio.to_thread(self.process.wait, PATIENCE)


StartProcess = Callable[..., WorkerProcess]


@pytest.fixture
def start_process(config: WorkerConfig, tmp_path: Path) -> Iterator[StartProcess]:
    """Start `python -m tests.null_worker` with these arguments and variables."""
    started: list[WorkerProcess] = []

    def start(*arguments: str, variables: Mapping[str, str] | None = None) -> WorkerProcess:
        environment = {
            **os.environ,
            "REDIS_URL": config.common.redis_url,
            "HF_ENDPOINT": config.common.hub,
            "HF_HOME": str(tmp_path / "hf"),
            "WARMBASE_BASE": config.base,
            "WARMBASE_SECRET": SECRET,
            **(variables or {}),
        }
        log = tmp_path / f"worker-{len(started)}.log"
        command = [sys.executable, "-m", "tests.null_worker", "--lease", str(LEASE), *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=output)
        started.append(WorkerProcess(process, log))
        return started[-1]

    yield start
    for worker in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.process.kill()
        worker.process.wait()


@dataclass(frozen=True, slots=True)
class Hub:
    """A Hub with repositories of one file each."""

    url: str
    faults: Faults
    requests: RequestLog
    root: Path

    def write(self, repo: str, content: bytes, access: str = "") -> None:
        folder = self.root / repo
        folder.mkdir(parents=True)
        (folder / WEIGHT_NAME).write_bytes(content)
        (folder / ".hub.yaml").write_text(access)

    async def pinned(self, *repos: str) -> tuple[AdapterRef, ...]:
        """Return the repositories' files, pinned to their commits."""
        api = huggingface_hub.HfApi(endpoint=self.url, token="hf_alice")
        # On a thread: the Hub answers on this event loop.
        commits = [(await asyncio.to_thread(api.model_info, repo)).sha for repo in repos]
        return tuple(
            AdapterRef(repo=RepoId(repo), revision=Revision(str(commit)), weight_name=WEIGHT_NAME)
            for repo, commit in zip(repos, commits, strict=True)
        )


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    """A Hub without repositories yet."""
    root = tmp_path / "hub"
    root.mkdir()
    (root / ".hub-tokens.yaml").write_text("hf_alice: alice\nhf_bob: bob\n")
    async with serve(LocalHubConfig(root=root)) as running:
        yield Hub(running.url, running.faults, running.requests, root)
    huggingface_hub.close_session()
