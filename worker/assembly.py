"""The composition root: where concrete things meet."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from huggingface_hub import constants
from redis.asyncio import Redis

from shared.config import WorkerConfig
from shared.jobs import WorkerId
from shared.pools import WorkerInfo
from shared.queue.queue import JobQueue
from shared.queue.terms import QueueSettings
from shared.redis_client import blocking_client, command_client, pubsub_client
from shared.refs import base_tag
from shared.results.opening import open_results
from shared.results.store import ResultStore
from shared.sealing import Sealer
from worker.adapter_store import AdapterStore, Threads, WeightFile
from worker.disk_tier import DiskTier
from worker.engine.contract import Adapter, Engine
from worker.executor import JobExecutor
from worker.gpu_tier import GpuTier
from worker.heartbeat import Heartbeat
from worker.hub_files import HubFiles
from worker.loop import IDLE_WAIT, Worker
from worker.metrics import TierName, WorkerMetrics
from worker.prefetch import Prefetch
from worker.pulse import Pulse
from worker.running import RunningJobs
from worker.settlement import Settlement
from worker.tier import Tier

A = TypeVar("A", bound=Adapter)

DOWNLOAD_THREADS = 64
"""A download that hangs keeps one until the client gives up, about a minute. They are made when needed."""
LOOKUP_THREADS = 4
INGEST_THREADS = 2
"""Each takes computing time from the generation beside it."""
ADAPTERS_FOLDER = "warmbase-adapters"
"""Beside huggingface_hub's own store, which holds the base: that is never evicted."""
PINNED_EXACTLY = "pinned_max_cached_size_mb:1"
"""For PyTorch's allocator: page-locked memory of above a megabyte has the size that was asked for, and goes
back to the system. Else it is rounded up to a power of two and kept: a tier took up to twice its budget."""
QUANTISERS = ("bitsandbytes", "torchao")
"""Libraries that are imported wherever they are installed. They warn of what a machine lacks that no base may
need, and in every step of numbers in another format than they were stored in."""

logger = logging.getLogger(__name__)


class Assembly(Generic[A]):
    """Puts a worker together around its engine. Owns the threads that its parts work on.

    Attributes:
        compute: the one thread that uses the engine.
    """

    def __init__(
        self, config: WorkerConfig, settings: QueueSettings, worker_id: WorkerId, metrics: WorkerMetrics
    ) -> None:
        self._config = config
        self._settings = settings
        self._id = worker_id
        self._metrics = metrics
        self.compute = ThreadPoolExecutor(1, "compute")
        self._threads = Threads(
            download=ThreadPoolExecutor(DOWNLOAD_THREADS, "download"),
            lookup=ThreadPoolExecutor(LOOKUP_THREADS, "lookup"),
            ingest=ThreadPoolExecutor(INGEST_THREADS, "ingest"),
            raising=ThreadPoolExecutor(1, "raise"),
        )
        # Apart, so that downloads which hang never hold up an image that is drawn.
        self._encoding = ThreadPoolExecutor(1, "encode")

    def close(self) -> None:
        """Let go of the threads, without waiting for what still runs on them."""
        store = self._threads
        fetching = (store.download, store.lookup, store.ingest, store.raising)
        for threads in (self.compute, *fetching, self._encoding):
            threads.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def worker(
        self, engine: Engine[A], on_announced: Callable[[], object]
    ) -> AsyncIterator[tuple[Worker[A], Heartbeat]]:
        """Give the worker and its heartbeat, neither of them started, with their connections open.

        `on_announced` is called on the event loop, each time that routers were told of the worker.
        """
        common = self._config.common
        url = common.redis_url
        info = self.worker_info(engine)
        self._metrics.describe(info)
        jobs, pulse = RunningJobs(), Pulse()
        loop = asyncio.get_running_loop()

        def announced() -> None:
            loop.call_soon_threadsafe(on_announced)

        heartbeat = Heartbeat(
            jobs=jobs,
            pulse=pulse,
            worker=info,
            settings=self._settings,
            stall=self._config.stall,
            commands=partial(command_client, url),
            subscriptions=partial(pubsub_client, url),
            on_announced=announced,
            give_up=os._exit,
        )
        stored = open_results(
            common.results_url or url, ttl=self._settings.record_ttl, most_bytes=common.results_bytes
        )
        async with (
            command_client(url) as commands,
            blocking_client(url, IDLE_WAIT) as blocking,
            stored as results,
        ):
            yield self._worker(engine, commands, blocking, jobs, pulse, results=results), heartbeat

    def worker_info(self, engine: Engine[A]) -> WorkerInfo:
        """Return what routers are told of the worker."""
        info = engine.info
        return WorkerInfo(
            id=self._id,
            base=self._config.served,
            base_revision=info.revision,
            pipeline_class=info.pipeline_class,
            device=info.device,
            dtype=info.dtype,
            default_width=info.default_width,
            default_height=info.default_height,
            default_steps=info.default_steps,
            adapters=info.adapters,
            image_to_image=info.image_to_image,
            copy_of=self._config.copy_of or info.copy_of,
            denoiser_file=info.denoiser_file,
            other_parts=info.other_parts,
            schedulers=info.schedulers,
        )

    def _worker(
        self,
        engine: Engine[A],
        commands: Redis,
        blocking: Redis,
        jobs: RunningJobs,
        pulse: Pulse,
        *,
        results: ResultStore,
    ) -> Worker[A]:
        tag = base_tag(self._config.served)
        queue = JobQueue(commands, tag, self._settings)
        settlement = Settlement(
            queue=queue,
            results=results,
            base_revision=engine.info.revision,
            threads=self._encoding,
        )
        secret = self._config.common.secret
        store = self._store(engine)
        executor = JobExecutor(
            engine=engine,
            store=store,
            compute=self.compute,
            sealer=Sealer(secret) if secret else None,
            pulse=pulse,
            metrics=self._metrics,
            results=results,
            decoding=self._threads.ingest,
        )
        return Worker(
            worker_id=self._id,
            queue=queue,
            blocking=blocking,
            executor=executor,
            prefetch=Prefetch(store),
            settlement=settlement,
            jobs=jobs,
            metrics=self._metrics,
            drain=self._config.drain,
        )

    def _store(self, engine: Engine[A]) -> AdapterStore[A]:
        config, metrics = self._config, self._metrics
        disk = DiskTier(
            config.disk_folder or Path(constants.HF_HOME) / ADAPTERS_FOLDER,
            config.disk_budget,
            is_pinned=config.pinned.__contains__,
            on_evict=metrics.evicted(TierName.DISK),
        )
        metrics.watch_tier(TierName.DISK, lambda: disk.nbytes)
        self._threads.lookup.submit(_sweep, disk)
        return AdapterStore(
            files=HubFiles(config.common.hub, config.max_adapter_bytes, disk),
            ingest=engine.ingest,
            ram=self._tier(TierName.RAM, config.ram_budget),
            gpu=self._gpu(engine),
            most_bytes=config.ram_budget,
            threads=self._threads,
            metrics=metrics,
        )

    def _gpu(self, engine: Engine[A]) -> GpuTier[WeightFile, A] | None:
        # other devices, such as mps, share the host's memory or say nothing of their room
        if not engine.info.device.startswith("cuda") or not self._config.gpu_budget:
            return None
        tier = self._tier(TierName.GPU, self._config.gpu_budget)
        return GpuTier(tier, engine.raise_up, self._threads.raising)

    def _tier(self, name: TierName, budget: int) -> Tier[WeightFile, A]:
        pinned = self._config.pinned
        tier = Tier[WeightFile, A](
            budget, is_pinned=lambda file: file.repo in pinned, on_evict=self._metrics.evicted(name)
        )
        self._metrics.watch_tier(name, lambda: tier.nbytes)
        return tier


def _sweep(disk: DiskTier) -> None:
    try:
        disk.sweep()
    except OSError:
        logger.exception("the folder of adapters cannot be used", extra={"action": "sweep_failed"})


def load_engine(config: WorkerConfig, on_stage: Callable[[str], None]) -> Engine[Any]:
    """Load the configured base with diffusers. The only way from here to torch."""
    given = os.environ  # noqa: TID251 - PyTorch's own settings, which it reads when it is first imported
    if "PYTORCH_CUDA_ALLOC_CONF" not in given:  # its older name
        given.setdefault("PYTORCH_ALLOC_CONF", PINNED_EXACTLY)
    for library in QUANTISERS:
        logging.getLogger(library).setLevel(logging.ERROR)
    from worker.engine.load import load_base  # noqa: PLC0415 - tests and `--help` need no torch

    engine: Engine[Any] = load_base(
        config.base,
        hub=config.common.hub,
        token=config.common.hub_token,
        device=config.device,
        dtype=config.dtype,
        on_stage=on_stage,
        compiled=config.compiled,
        denoiser=config.denoiser,
    )
    return engine
