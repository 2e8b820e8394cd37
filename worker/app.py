"""How a worker process starts, serves and ends."""

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, Generic, TypeVar

from shared.config import WorkerConfig
from shared.errors import QueueUnavailable
from shared.jobs import GenerationParams, WorkerId
from shared.logs import log_context
from shared.queue.terms import QueueSettings
from shared.redis_client import command_client
from shared.server_check import WORKER_COMMANDS, WrongServer, check_server, log_unchecked
from worker.assembly import Assembly
from worker.engine.contract import Adapter, BaseDamaged, Engine
from worker.exit_codes import ExitCode
from worker.metrics import WorkerMetrics
from worker.probes import Readiness, serve_probes

A = TypeVar("A", bound=Adapter)

BuildEngine = Callable[[Callable[[str], None]], Engine[A]]
"""Loads the base on the thread that calls it, and tells its argument the stages on the way."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SERVER_PAUSE = 1.0
"""Seconds between attempts to reach Redis at the start."""
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
        self._id = WorkerId(f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")
        self._metrics = WorkerMetrics(config.served)
        self._readiness = Readiness(base=config.served)
        self._assembly = Assembly[A](config, settings or QueueSettings(), self._id, self._metrics)
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
                self._assembly.close()

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
            return ExitCode.STOPPED if engine is None else await self._serve(engine)

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
        loading = asyncio.get_running_loop().run_in_executor(self._assembly.compute, self._warm_engine)
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

    async def _serve(self, engine: Engine[A]) -> ExitCode:
        async with self._assembly.worker(engine, self._say_ready) as (worker, heartbeat):

            def stop() -> None:
                self._set_stage("draining")
                heartbeat.leave()
                worker.stop()

            self._set_stage(JOINING)
            async with heartbeat:
                self._on_stop = stop
                try:
                    await worker.run()
                except BaseDamaged:
                    self._set_stage("ending")
                    logger.exception(
                        "the base's weights are damaged; the process ends", extra={"action": "base_damaged"}
                    )
                    return ExitCode.BASE_DAMAGED
        return ExitCode.STOPPED

    def _say_ready(self) -> None:
        """Be ready from the first announcement on: before it a router would refuse what the worker serves."""
        if self._readiness.stage == JOINING:
            self._set_stage("ready")
            logger.info("ready", extra={"action": "ready"})

    def _set_stage(self, stage: str) -> None:
        self._readiness.stage = stage
        self._readiness.ready = stage == "ready"
