"""What the benchmarks of the queue share: a server and its CPU time, jobs of many tenants, null workers."""

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redis.asyncio import Redis

from deploy import embedded_valkey
from shared.jobs import Job, new_job_id
from shared.queue.terms import QueueSettings
from shared.refs import RepoId
from tests.builders import a_job, an_adapter
from tests.servers import valkey

ROOT = Path(__file__).parents[2]

ADAPTERS, TENANTS, HOT = 20, 10, 8
DAY = 86400.0
# Old heads are not passed: without a bound on age, every depth has the same work, however long it was filled.
DEEP = QueueSettings(max_waiting=10**9, max_waiting_per_tenant=10**9, max_age=1e9)

tokens = (str(number) for number in itertools.count())


def on_a_server(measure: Callable[[str], Awaitable[None]]) -> None:
    """Run a measurement with the address of an empty server."""
    server = embedded_valkey.start(valkey())
    try:
        asyncio.run(measure(server.url))
    finally:
        server.stop()


async def server_cpu(redis: Redis) -> float:
    """Return the CPU seconds that the server has used."""
    info = await redis.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def micro(seconds: float) -> str:
    """Return microseconds as text."""
    return f"{seconds * 1e6:.0f} us"


def varied(base: RepoId, kind: int) -> Job:
    """A job of one of the tenants with one of the adapters."""
    adapter = an_adapter(repo=RepoId(f"bench/adapter-{kind % ADAPTERS}"))
    tenant = f"tenant-{kind // ADAPTERS % TENANTS}"
    return a_job(base=base, id=new_job_id(base), adapters=(adapter,), timeout=DAY, tenant=tenant)


class Relay:
    """Worker processes of a base; the oldest one is killed first, all of them at the end of the block."""

    def __init__(self, url: str, base: RepoId) -> None:
        self._url = url
        self._base = base
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        self._running.append(start_worker(self._url, self._base, "--step-seconds", "0.05"))
        return self._running[-1]

    def kill(self) -> None:
        process = self._running.pop(0)
        process.kill()
        process.wait()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_: object) -> None:
        while self._running:
            self.kill()


def start_worker(url: str, base: RepoId, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a whole worker process around the null engine."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WARMBASE_")},
        "REDIS_URL": url,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": tempfile.gettempdir(),
        "WARMBASE_BASE": base,
        "WARMBASE_PROBE_PORT": "0",
        "WARMBASE_LOG_LEVEL": "error",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.null_worker", *arguments], cwd=ROOT, env=environment
    )


@contextmanager
def null_worker(url: str, base: RepoId, *arguments: str) -> Iterator[None]:
    """A worker process, killed at the end of the block."""
    with start_worker(url, base, *arguments) as process:
        try:
            yield
        finally:
            process.kill()
