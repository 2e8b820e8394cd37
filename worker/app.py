"""The composition root: where concrete things meet, and how the process starts and ends."""

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from huggingface_hub import constants
from redis.asyncio import Redis

from shared.config import WorkerConfig
from shared.errors import QueueUnavailable
from shared.jobs import GenerationParams, WorkerId
from shared.logs import log_context
from shared.pools import WorkerInfo
from shared.queue.queue import JobQueue
from shared.queue.terms import QueueSettings
from shared.redis_client import blocking_client, command_client, pubsub_client
from shared.refs import base_tag
from shared.results.opening import open_results
from shared.results.store import ResultStore
from shared.sealing import Sealer
from shared.server_check import WORKER_COMMANDS, WrongServer, check_server, log_unchecked
from worker.adapter_store import AdapterStore, Threads, WeightFile
from worker.disk_tier import DiskTier
from worker.engine.contract import Adapter, BaseDamaged, Engine
from worker.executor import JobExecutor
from worker.exit_codes import ExitCode
from worker.gpu_tier import GpuTier
from worker.heartbeat import Heartbeat
from worker.hub_files import HubFiles
from worker.loop import IDLE_WAIT, Worker
from worker.metrics import TierName, WorkerMetrics
from worker.prefetch import Prefetch
from worker.probes import Readiness, serve_probes
from worker.pulse import Pulse
from worker.running import RunningJobs
from worker.settlement import Settlement
from worker.tier import Tier

A = TypeVar("A", bound=Adapter)

BuildEngine = Callable[[Callable[[str], None]], Engine[A]]
"""Loads the base on the thread that calls it, and tells its argument the stages on the way."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
DOWNLOAD_THREADS = 64
"""A download that hangs keeps one until the client gives up, about a minute. They are made when needed."""
LOOKUP_THREADS = 4
INGEST_THREADS = 2
"""Each takes computing time from the generation beside it."""
ADAPTERS_FOLDER = "warmbase-adapters"
"""Beside huggingface_hub's own store, which holds the base: that is never evicted."""
SERVER_PAUSE = 1.0
"""Seconds between attempts to reach Redis at the start."""
PINNED_EXACTLY = "pinned_max_cached_size_mb:1"
"""For PyTorch's allocator: page-locked memory of above a megabyte has the size that was asked for, and goes
back to the system. Else it is rounded up to a power of two and kept: a tier took up to twice its budget."""
QUANTISERS = ("bitsandbytes", "torchao")
"""Libraries that are imported wherever they are installed. They warn of what a machine lacks that no base may
need, and in every step of numbers in another format than they were stored in."""
JOINING = "joining its pool"
"""The stage between a warm base and routers that know of it."""
WARM_UP = GenerationParams(prompt="warm-up", steps=2, seed=0)

logger = logging.getLogger(__name__)


class WorkerApp(Generic[A]):
    """One worker process: loads its base, serves jobs until a signal, and says how it ended."""

    def __init__(
        self, config: WorkerConfig, build_engine: BuildEngine[A], settings: QueueSettings | None = None
    ) -> None:
        """`settings` are those of the base's queue, the same for all its users."""
        self._config = config
        self._build_engine = build_engine
        self._settings = settings or QueueSettings()
        self._id = WorkerId(f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")
        self._metrics = WorkerMetrics(config.served)
        self._readiness = Readiness(base=config.served)
        self._compute = ThreadPoolExecutor(1, "compute")
        self._threads = Threads(
            download=ThreadPoolExecutor(DOWNLOAD_THREADS, "download"),
            lookup=ThreadPoolExecutor(LOOKUP_THREADS, "lookup"),
            ingest=ThreadPoolExecutor(INGEST_THREADS, "ingest"),
            raising=ThreadPoolExecutor(1, "raise"),
        )
        # Apart, so that downloads which hang never hold up an image that is drawn.
        self._encoding = ThreadPoolExecutor(1, "encode")
        self._stopped = asyncio.Event()
        self._on_stop: Callable[[], None] = self._stopped.set

    def stop(self) -> None:
        """End: as SIGTERM and SIGINT do. A second call does not wait for the running job."""
        logger.info("told to stop", extra={"action": "stopping"})
        self._on_stop()

    async def run(self) -> ExitCode:
        """Serve until stopped, and return why it ended."""
        loop = asyncio.get_running_loop()
        with log_context(worker=self._id, base=self._config.served):
            for number in STOP_SIGNALS:
                loop.add_signal_handler(number, self.stop)
            try:
                return await self._run()
            finally:
                for number in STOP_SIGNALS:
                    loop.remove_signal_handler(number)
                store = self._threads
                fetching = (store.download, store.lookup, store.ingest, store.raising)
                for threads in (self._compute, *fetching, self._encoding):
                    threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> ExitCode:
        async with AsyncExitStack() as stack:
            probes = serve_probes(self._config.host, self._config.probe_port, self._readiness, self._metrics)
            try:
                port = await stack.enter_async_context(probes)
            except OSError as error:
                logger.error(  # noqa: TRY400 - the text says it all
                    "the probes cannot listen", extra={"action": "probes_failed", "error": str(error)}
                )
                return ExitCode.BAD_CONFIG
            logger.info("probes listen", extra={"action": "probes_listening", "port": port})
            if not await self._server_is_good():
                return ExitCode.STOPPED if self._stopped.is_set() else ExitCode.BAD_CONFIG
            try:
                engine = await self._load()
            except Exception as error:
                logger.exception(
                    "the base cannot be served", extra={"action": "base_not_loaded", "error": str(error)}
                )
                return ExitCode.BASE_NOT_LOADED
            return ExitCode.STOPPED if engine is None else await self._serve(engine, stack)

    async def _server_is_good(self) -> bool:
        """Wait for Redis and look whether it can hold the queue, before minutes are spent on the base.

        False: it cannot, or the process is told to stop.
        """
        self._set_stage("waiting for Redis")
        async with command_client(self._config.common.redis_url) as redis:
            while not self._stopped.is_set():
                try:
                    log_unchecked(await check_server(redis, WORKER_COMMANDS))
                except WrongServer as error:
                    logger.error(  # noqa: TRY400 - the text says it all
                        "Redis cannot hold the queue: %s", error.message, extra={"action": "server_wrong"}
                    )
                    return False
                except QueueUnavailable as error:
                    cause = str(error.__cause__)
                    logger.warning("Redis is waited for", extra={"action": "server_waits", "cause": cause})
                    with suppress(TimeoutError):
                        async with asyncio.timeout(SERVER_PAUSE):
                            await self._stopped.wait()
                else:
                    return True
        return False

    async def _load(self) -> Engine[A] | None:
        """Load the base and draw a first image off the event loop; None when told to stop meanwhile."""
        loading = asyncio.get_running_loop().run_in_executor(self._compute, self._warm_engine)
        stopping = asyncio.create_task(self._stopped.wait())
        either: set[asyncio.Future[Any]] = {loading, stopping}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        return None if self._stopped.is_set() else await loading

    def _warm_engine(self) -> Engine[A]:
        engine = self._build_engine(self._set_stage)
        self._set_stage("warming up")
        engine.generate(WARM_UP, lambda _done, _total: None)
        # What is there now stays. Else each full collection walks through the libraries and the base.
        gc.collect()
        gc.freeze()
        return engine

    async def _serve(self, engine: Engine[A], stack: AsyncExitStack) -> ExitCode:
        url = self._config.common.redis_url
        info = self._worker_info(engine)
        jobs, pulse = RunningJobs(), Pulse()
        commands = await stack.enter_async_context(command_client(url))
        blocking = await stack.enter_async_context(blocking_client(url, IDLE_WAIT))
        common = self._config.common
        results = await stack.enter_async_context(
            open_results(
                common.results_url or url, ttl=self._settings.record_ttl, most_bytes=common.results_bytes
            )
        )
        worker = self._worker(engine, commands, blocking, jobs, pulse, results=results)
        loop = asyncio.get_running_loop()

        def announced() -> None:
            loop.call_soon_threadsafe(self._say_ready)

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

        def stop() -> None:
            self._set_stage("draining")
            heartbeat.leave()
            worker.stop()

        self._set_stage(JOINING)
        async with heartbeat:
            self._on_stop = stop
            self._metrics.describe(info)
            try:
                await worker.run()
            except BaseDamaged:
                logger.exception(
                    "the base's weights are damaged; the process ends", extra={"action": "base_damaged"}
                )
                return ExitCode.BASE_DAMAGED
        return ExitCode.STOPPED

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
            compute=self._compute,
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

    def _worker_info(self, engine: Engine[A]) -> WorkerInfo:
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
        )

    def _say_ready(self) -> None:
        """Be ready from the first announcement on: before it a router would refuse what the worker serves."""
        if self._readiness.stage == JOINING:
            self._set_stage("ready")
            logger.info("ready", extra={"action": "ready"})

    def _set_stage(self, stage: str) -> None:
        self._readiness.stage = stage
        self._readiness.ready = stage == "ready"


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
