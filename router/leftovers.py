"""Ends the jobs of bases that have no worker any more.

Leases that run out and jobs that wait beyond their time are ended by the workers of their base. When the last
of these has gone, routers do it: else such a job would never end, and what was asked for would stay in Redis.

A base is left alone until it was without workers at two looks in a row. After an outage of Redis all workers
seem to be gone, and all leases to have run out, until they have had the time to say otherwise.
"""

import asyncio
import logging
from contextlib import suppress
from types import TracebackType
from typing import Self

from router.queues import Queues
from shared.errors import QueueUnavailable
from shared.pools import PoolDirectory

EVERY = 10.0
"""Seconds between two looks. Who waits is told by its own router when the time is over."""

logger = logging.getLogger(__name__)


class Leftovers:
    """Looks after them while its context is open. Any number of routers may do so at once."""

    def __init__(self, pools: PoolDirectory, queues: Queues) -> None:
        self._pools = pools
        self._queues = queues
        self._left_before: set[str] = set()

    async def __aenter__(self) -> Self:
        self._closing = False
        self._loop = asyncio.create_task(self._repeat(), name="end the jobs of bases without workers")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)

    async def end_overdue(self) -> int:
        """End or take back what is over now, of all bases that still have no worker; return how many jobs.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        ended, before = 0, self._left_before
        self._left_before = set()  # unless this look says otherwise
        left = set(await self._pools.left())
        self._left_before = left
        for tag in left & before:
            queue = self._queues.of_tag(tag)
            with suppress(QueueUnavailable):  # of a cluster, each base has its own node
                while some := await queue.reap():
                    ended += some
        return ended

    async def _repeat(self) -> None:
        while not self._closing:
            await asyncio.sleep(EVERY)
            try:
                if ended := await self.end_overdue():
                    logger.info(
                        "looked after jobs of bases without workers",
                        extra={"action": "leftovers", "jobs": ended},
                    )
            except QueueUnavailable:
                pass  # those who wait say it; the next look comes
            except Exception:
                logger.exception("loop of the router failed", extra={"action": "leftovers"})
