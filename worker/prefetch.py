"""What comes next, by the hints of the last claim: moved up through the tiers while the current job draws."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Generic, TypeVar

from shared.errors import WarmbaseError
from shared.jobs import Job
from shared.refs import AdapterRef
from worker.adapter_store import AdapterStore, WeightFile, weight_file
from worker.engine.contract import Adapter

A = TypeVar("A", bound=Adapter)

MOST_AT_ONCE = 16
"""Adapters that are wanted ahead of their jobs at a time, those of the first hints first."""

FAILURE_MEMORY = 60.0
"""Seconds for which an adapter that could not be had is left to its own job."""

MOST_FAILURES = 256

logger = logging.getLogger(__name__)


class Prefetch(Generic[A]):
    """Keeps hinted adapters on their way and in their tiers, and lets go of those that are hinted no more.

    A hint is a guess. What it brings takes only room that nothing wanted has (`AdapterStore.ahead`), and an
    adapter that cannot be had is nobody's failure: its job says so when its turn comes. A private adapter is
    one of these, since hints come without callers' tokens.
    """

    def __init__(self, store: AdapterStore[A], clock: Callable[[], float] = monotonic) -> None:
        self._store = store
        self._clock = clock
        self._wanted: dict[WeightFile, asyncio.Task[None]] = {}
        self._failed: OrderedDict[WeightFile, float] = OrderedDict()

    def follow(self, hints: Iterable[Job]) -> None:
        """Take these hints in place of the last ones."""
        refs = {weight_file(ref): ref for job in hints for ref in job.adapters}
        hinted = [file for file in refs if not self._failed_lately(file)][:MOST_AT_ONCE]
        for file in self._wanted.keys() - hinted:
            self._wanted.pop(file).cancel()  # a download goes on, and lands on disk
        for file in hinted:
            if file not in self._wanted or self._wanted[file].done():  # there was no room for it
                self._wanted[file] = asyncio.create_task(self._keep(file, refs[file]))

    async def close(self) -> None:
        """Want nothing any more."""
        wanted = list(self._wanted.values())
        self.follow(())
        if wanted:
            await asyncio.wait(wanted)

    async def _keep(self, file: WeightFile, ref: AdapterRef) -> None:
        try:
            async with self._store.ahead(ref) as is_here:
                if is_here:
                    await asyncio.Event().wait()  # until it is hinted no more
        except Exception as error:
            self._failed[file] = self._clock()
            self._failed.move_to_end(file)
            if len(self._failed) > MOST_FAILURES:
                self._failed.popitem(last=False)
            level = logging.DEBUG if isinstance(error, WarmbaseError) else logging.WARNING
            logger.log(
                level, "a hinted adapter could not be had", exc_info=error, extra={"action": "prefetch"}
            )

    def _failed_lately(self, file: WeightFile) -> bool:
        failed_at = self._failed.get(file)
        return failed_at is not None and self._clock() - failed_at < FAILURE_MEMORY
