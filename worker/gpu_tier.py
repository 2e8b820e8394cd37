"""The GPU tier: adapters moved into idle memory of the device ahead of their swap."""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Generic, TypeVar

from worker.engine.contract import Adapter
from worker.flights import Flights
from worker.tier import Tier

K = TypeVar("K", bound=Hashable)
A = TypeVar("A", bound=Adapter)


class GpuTier(Generic[K, A]):
    """What `raise_up` has moved, within a budget; the rest is used from RAM. Lives on one event loop."""

    def __init__(self, tier: Tier[K, A], raise_up: Callable[[A], A | None], threads: Executor) -> None:
        self._tier = tier
        self._raise_up = raise_up
        self._threads = threads
        self._flights = Flights[K, A | None]()

    def in_use(self, keys: frozenset[K]) -> AbstractContextManager[None]:
        """Keep what `keys` name while inside."""
        return self._tier.in_use(keys)

    def kept(self, keys: frozenset[K]) -> AbstractContextManager[None]:
        """Keep what of `keys` is here, or comes, while inside, unless what is in use needs its place."""
        return self._tier.expected(dict.fromkeys(keys, 0))

    def holds(self, key: K) -> bool:
        """Whether the adapter is here."""
        return key in self._tier

    async def use(self, key: K, adapter: A) -> A:
        """Return the adapter as it is here, moved now if it fits; else `adapter`, as it is in RAM."""
        return self._tier.use(key) or await self._raise(key, adapter) or adapter

    @asynccontextmanager
    async def ahead(self, key: K, adapter: A) -> AsyncIterator[None]:
        """Have the adapter here while inside, if it fits beside what is wanted here."""
        if key not in self._tier and adapter.nbytes > self._tier.room:
            yield
            return
        with self._tier.expected({key: adapter.nbytes}):
            if key not in self._tier:
                await self._raise(key, adapter)
            yield

    async def _raise(self, key: K, adapter: A) -> A | None:
        return await self._flights.join(key, lambda: self._moved(key, adapter))

    async def _moved(self, key: K, adapter: A) -> A | None:
        nbytes = adapter.nbytes
        if not self._tier.reserve(key, nbytes):
            return None
        try:
            raised = await asyncio.get_running_loop().run_in_executor(self._threads, self._raise_up, adapter)
        finally:
            self._tier.release(key, nbytes)
        if raised is not None:
            self._tier.put(key, raised)
        return raised
