"""One worker on this event loop over a real Valkey and a real local Hub, for benchmarks to load."""

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import huggingface_hub

from deploy import embedded_valkey
from deploy.ports import free_ports
from shared.config import CommonConfig
from shared.jobs import Job
from shared.queue.queue import JobQueue
from shared.queue.terms import Mode, QueueSettings
from shared.redis_client import command_client
from shared.refs import AdapterRef, RepoId, Revision, base_tag
from tests.builders import BASE, a_job, a_worker_config, some_params
from worker.__main__ import SWITCH_INTERVAL
from worker.app import WorkerApp

ROOT = Path(__file__).parents[2]
IN_ORDER = QueueSettings(slack=0.0, max_overtakes=0)
"""First come, first served: what churns must not be put in order by affinity."""


@dataclass(slots=True)
class Watched:
    """An engine, and when it began and ended each image, by prompt."""

    engine: Any
    began: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    activating: float = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def activate(self, wanted: Sequence[Any]) -> Any:
        self.activating = time.monotonic()
        return self.engine.activate(wanted)

    def generate(self, params: Any, on_step: Any, source: Any = None) -> Any:
        self.began[params.prompt] = self.activating
        made = self.engine.generate(params, on_step, source)
        self.ended[params.prompt] = time.monotonic()
        return made

    def gaps(self, prompts: Sequence[str]) -> list[float]:
        """Return how long the compute thread idled before each of the images but the first, in order."""
        order = sorted(prompts, key=self.began.__getitem__)
        return [self.began[after] - self.ended[before] for before, after in pairwise(order)]


@dataclass(frozen=True, slots=True)
class OneWorker:
    """The worker, and what a router would do with its queue."""

    queue: JobQueue
    engine: Watched
    hub: str

    async def pinned(self, repo: str, weight_name: str) -> AdapterRef:
        api = huggingface_hub.HfApi(endpoint=self.hub, token=False)
        info = await asyncio.to_thread(api.model_info, repo)
        return AdapterRef(repo=RepoId(repo), revision=Revision(str(info.sha)), weight_name=weight_name)

    async def run(self, adapters: Sequence[Sequence[AdapterRef]], name: str, **params: Any) -> list[str]:
        """Queue a job for each set of adapters, then have them all drawn; return their prompts."""
        await self.queue.set_mode(Mode.PAUSED)
        wanted = [a_job_of(refs, f"{name} {number}", **params) for number, refs in enumerate(adapters)]
        for job in wanted:
            await self.queue.enqueue(job)
        await self.queue.set_mode(Mode.OPEN)
        await self.drawn([job.params.prompt for job in wanted])
        return [job.params.prompt for job in wanted]

    async def drawn(self, prompts: Sequence[str]) -> None:
        """Return once all of them are."""
        async with asyncio.timeout(60 + 2 * len(prompts)):
            while not self.engine.ended.keys() >= set(prompts):  # noqa: ASYNC110 - another thread draws
                await asyncio.sleep(0.02)

    async def faults(self, *rules: dict[str, object]) -> None:
        """Have the Hub follow these rules, and no others."""
        async with aiohttp.ClientSession() as session:
            await session.put(f"{self.hub}/_faults", json={"rules": rules}, raise_for_status=True)


def a_job_of(adapters: Sequence[AdapterRef], prompt: str, **params: Any) -> Job:
    """Return a fresh job whose prompt names it."""
    return a_job(adapters=tuple(adapters), params=some_params(prompt=prompt, **params), timeout=600.0)


@asynccontextmanager
async def one_worker(
    engine: Any, repositories: Path, *, ram_budget: int = 1 << 30, settings: QueueSettings = IN_ORDER
) -> AsyncIterator[OneWorker]:
    """Serve `engine` until the context ends; the Hub shows `repositories`."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    logging.disable(logging.WARNING)
    huggingface_hub.utils.disable_progress_bars()
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    server = embedded_valkey.start()
    command = [sys.executable, "-m", "deploy.local_hub", "--root", str(repositories), "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        hub = _start_hub([*command, "--allow-faults"])
        watched = Watched(engine)
        config = a_worker_config(
            Path(folder),
            server.url,
            common=CommonConfig(redis_url=server.url, hub=url, hub_token=None, secret="", log_level="error"),
            max_adapter_bytes=1 << 30,
            ram_budget=ram_budget,
            disk_budget=64 << 30,
            gpu_budget=0,
            drain=5.0,
            stall=600.0,
        )
        try:
            await _answers(url)
            app = WorkerApp(config, lambda _on_stage: watched, settings)
            running = asyncio.create_task(app.run())
            async with command_client(server.url) as redis:
                yield OneWorker(JobQueue(redis, base_tag(BASE), settings), watched, url)
            app.stop()
            await running
        finally:
            hub.kill()
            hub.wait()
            server.stop()


def _start_hub(command: Sequence[str]) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=quiet, stderr=quiet)


async def _answers(url: str) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(f"{url}/health"):
                    return
            await asyncio.sleep(0.05)
