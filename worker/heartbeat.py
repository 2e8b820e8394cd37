"""The heartbeat: a thread of its own, so that neither GPU work nor a busy main loop can cost a lease."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import Thread
from time import monotonic
from types import TracebackType
from typing import NoReturn, Self, TypeVar

from redis.asyncio import Redis

from shared.errors import QueueUnavailable
from shared.jobs import JobId
from shared.pools import PoolDirectory, WorkerInfo
from shared.queue.keys import BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import LeaseState, QueueSettings
from shared.refs import base_tag
from worker.cancels import follow_cancels
from worker.exit_codes import ExitCode
from worker.pulse import Pulse
from worker.running import RunningJobs

BEATS_PER_LEASE = 4
BEATS_PER_ANNOUNCEMENT = 3
"""Announcements that may be missed before routers take the worker for dead."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Heartbeat:
    """Renews the leases of the running jobs, announces the worker, reaps leases of dead ones.

    It tells a running job when its lease is lost or its caller has cancelled it. When the compute thread
    shows no sign of life for `stall` seconds it gives the whole process up: the lease runs out, and the job
    runs elsewhere. So it does when it cannot go on itself, because leases would be lost without a word.
    """

    def __init__(
        self,
        *,
        jobs: RunningJobs,
        pulse: Pulse,
        worker: WorkerInfo,
        settings: QueueSettings,
        stall: float,
        commands: Callable[[], Redis],
        subscriptions: Callable[[], Redis],
        on_announced: Callable[[], None],
        give_up: Callable[[ExitCode], NoReturn],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`commands` and `subscriptions` make clients of Redis: a client belongs to one event loop.

        `on_announced` is called, on the heartbeat's thread, each time that routers have been told of the
        worker. `give_up` ends the process at once.
        """
        self._jobs = jobs
        self._pulse = pulse
        self._worker = worker
        self._settings = settings
        self._tag = base_tag(worker.base)
        self._period = settings.lease / BEATS_PER_LEASE
        self._stall = stall
        self._commands = commands
        self._subscriptions = subscriptions
        self._on_announced = on_announced
        self._give_up = give_up
        # A factory keeps the runner from making its loop the one of the thread that asks for it.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._stopping = asyncio.Event()
        self._leaving = asyncio.Event()
        self._clock = clock
        self._reachable = True
        self._back_since = -math.inf

    async def __aenter__(self) -> Self:
        """Start the thread."""
        self._runner.get_loop()
        run = partial(copy_context().run, self._run)
        self._thread = Thread(target=run, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Withdraw the worker and end the thread."""
        self._tell(self._leaving)
        self._tell(self._stopping)
        await asyncio.to_thread(self._thread.join)

    def leave(self) -> None:
        """Withdraw the worker from its pool; the leases it holds are renewed still."""
        self._tell(self._leaving)

    def _tell(self, event: asyncio.Event) -> None:
        # Without a loop the thread is gone, and nobody there to be told.
        with suppress(RuntimeError):
            self._runner.get_loop().call_soon_threadsafe(event.set)

    def _run(self) -> None:
        try:
            with self._runner:
                self._runner.run(self._live())
        except Exception:
            logger.exception("the heartbeat failed", extra={"action": "heartbeat_failed"})
            self._give_up(ExitCode.HEARTBEAT_LOST)

    async def _live(self) -> None:
        async with self._commands() as commands, self._subscriptions() as subscriptions:
            queue = JobQueue(commands, self._tag, self._settings)
            pools = PoolDirectory(commands)
            control = BaseKeys(self._tag).control
            async with asyncio.TaskGroup() as group:
                # Apart, so that what is slow about one never holds up the renewal of leases.
                group.create_task(self._renew(queue))
                group.create_task(self._keep_house(queue, pools))
                listening = group.create_task(follow_cancels(subscriptions, control, self._cancelled))
                await self._stopping.wait()
                # The others end by themselves: under Python 3.11 a command that is being sent swallows a
                # cancellation (asyncio.wait_for, python/cpython#86296), and their loops would go on.
                listening.cancel()
            await self._reached(pools.withdraw(self._worker))

    async def _renew(self, queue: JobQueue) -> None:
        async with asyncio.TaskGroup() as beats:
            while not self._stopping.is_set():
                self._check_stall()
                beat = beats.create_task(self._beat(queue))
                await asyncio.wait([beat], timeout=self._period)
                # One that is not heard in time may be in a dead connection, which takes most of a lease to
                # show. The next one takes another connection. The late one is not ended: where the network
                # is slow, it is on its way.
                if beat.done():
                    await self._pause(self._stopping)

    async def _beat(self, queue: JobQueue) -> None:
        """Renew the leases, and stop the jobs whose lease is not held any more."""
        held = self._jobs.all()
        if not held:
            return
        progress = [running.progress for running in held]
        states = await self._reached(queue.heartbeat(self._worker.id, progress)) or {}
        for running in held:
            state = states.get(running.lease.job.id, LeaseState.HELD)
            if state is not LeaseState.HELD:
                running.stop(state)

    async def _keep_house(self, queue: JobQueue, pools: PoolDirectory) -> None:
        while not self._stopping.is_set():
            is_leaving = self._leaving.is_set()
            if is_leaving:
                await self._reached(pools.withdraw(self._worker))
            else:
                await self._reached(self._announce(pools))
            if self._may_reap():
                # the machine may have stood still for longer than a lease, and this have woken first
                await self._beat(queue)
                await self._reached(queue.reap())
            await self._pause(self._stopping if is_leaving else self._leaving)

    async def _announce(self, pools: PoolDirectory) -> None:
        await pools.announce(self._worker, BEATS_PER_ANNOUNCEMENT * self._period)
        self._on_announced()

    def _may_reap(self) -> bool:
        """Whether leases that have run out are those of dead workers.

        While Redis was away nobody could renew one: the living get the time of a lease to do so.
        """
        return self._reachable and self._clock() - self._back_since >= self._settings.lease

    async def _pause(self, event: asyncio.Event) -> None:
        """Wait for the next beat, or for `event` if that comes first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._period):
                await event.wait()

    async def _reached(self, call: Awaitable[T]) -> T | None:
        """Return the answer of `call`, None when Redis does not answer; log only when that changes."""
        try:
            answer = await call
        except QueueUnavailable as error:
            if self._reachable:
                logger.warning(
                    "Redis does not answer the heartbeat",
                    extra={"action": "heartbeat_unheard", "cause": str(error.__cause__)},
                )
            self._reachable = False
            return None
        if not self._reachable:
            logger.info("Redis answers the heartbeat again", extra={"action": "heartbeat_heard"})
            self._back_since = self._clock()
        self._reachable = True
        return answer

    def _check_stall(self) -> None:
        silence = self._pulse.silence()
        if silence > self._stall:
            logger.error(
                "no denoising step for too long; the process ends and its job runs elsewhere",
                extra={"action": "stalled", "seconds": round(silence, 1)},
            )
            self._give_up(ExitCode.STALLED)

    def _cancelled(self, job: JobId) -> None:
        self._jobs.stop(job, LeaseState.CANCELLED)
