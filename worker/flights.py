"""Work that several want, done once: single flight."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flights(Generic[K, T]):
    """What is on its way, by key. Who leaves does not stop it: it lands for whoever wants the same next."""

    def __init__(self) -> None:
        self._flights: dict[K, asyncio.Future[T]] = {}

    def __len__(self) -> int:
        """How many are on their way."""
        return len(self._flights)

    async def join(self, key: K, start: Callable[[], Awaitable[T]]) -> T:
        """Return what the flight of `key` brings, or raise its error; `start` it when there is none."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.ensure_future(start())
            flight.add_done_callback(lambda done: self._land(key, done))
        return await asyncio.shield(flight)

    def _land(self, key: K, flight: asyncio.Future[T]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # seen, even when nobody waits any more
