"""Answers of the Hub, remembered for a while: one call for any number of simultaneous questions.

An answer is kept while it is fresh; "no such thing" is an answer, too, kept for less long. When the source
fails (an error that is `retryable`), an answer that is no longer fresh stands in for a while; never an
invented one. When it hangs, those wait who ask until that shows, and later ones for a moment.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.errors import WarmbaseError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lifetimes:
    """How long answers are used, in seconds.

    Attributes:
        fresh: an answer is given without asking again.
        negative: the same for an answer that was an error.
        stale: an answer that is this old may still stand in while the source fails.
        retry: the source is left alone after a failure that a stale answer hid.
        patience: this long a source that failed the last time is waited for while a stale answer is at hand.
    """

    fresh: float
    negative: float
    stale: float = 0.0
    retry: float = 5.0
    patience: float = 1.0


@dataclass(frozen=True, slots=True)
class _Answer(Generic[V]):
    value: V


@dataclass(frozen=True, slots=True)
class _Refusal:
    error: WarmbaseError


@dataclass(slots=True)
class _Entry(Generic[V]):
    outcome: _Answer[V] | _Refusal
    fresh_until: float
    stale_until: float


class MetadataCache(Generic[K, V]):
    """Remembers what `fetch` answers. Holds at most `capacity` entries, the last used ones."""

    def __init__(
        self,
        fetch: Callable[[K], Awaitable[V]],
        *,
        lifetimes: Lifetimes,
        clock: Callable[[], float],
        capacity: int,
    ) -> None:
        self._fetch = fetch
        self._lifetimes = lifetimes
        self._clock = clock
        self._capacity = capacity
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._flights: dict[K, asyncio.Task[_Answer[V] | _Refusal]] = {}
        self._is_failing = False

    async def get(self, key: K) -> V:
        """Return the answer for `key`.

        Raises:
            WarmbaseError: what `fetch` raised, now or a short while ago; each caller gets a copy.
        """
        entry = self._entries.get(key)
        if entry is not None and self._clock() < entry.fresh_until:
            self._entries.move_to_end(key)
            return _unwrap(entry.outcome)
        flight = self._flights.get(key)
        if flight is None:
            # A task of its own: whoever asked first may leave, the others still get their answer.
            flight = asyncio.create_task(self._ask(key))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        if self._is_failing and entry is not None and self._may_stand_in(entry):
            in_time, _ = await asyncio.wait({flight}, timeout=self._lifetimes.patience)
            if not in_time:  # what it brings is for those who ask later
                entry.fresh_until = self._clock() + self._lifetimes.retry
                return _unwrap(entry.outcome)
        return _unwrap(await asyncio.shield(flight))

    def known(self, key: K) -> V | None:
        """Return the answer for `key` that would be given without asking; None if there is none."""
        entry = self._entries.get(key)
        if entry is None or isinstance(entry.outcome, _Refusal) or self._clock() >= entry.fresh_until:
            return None
        return entry.outcome.value

    async def close(self) -> None:
        """End the calls that are under way."""
        flights = tuple(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _ask(self, key: K) -> _Answer[V] | _Refusal:
        try:
            answer = _Answer(await self._fetch(key))
        except WarmbaseError as error:
            self._is_failing = error.retryable
            return self._refused(key, error)
        self._is_failing = False
        self._keep(key, answer, self._lifetimes.fresh, self._lifetimes.fresh + self._lifetimes.stale)
        return answer

    def _refused(self, key: K, error: WarmbaseError) -> _Answer[V] | _Refusal:
        refusal = _Refusal(error)
        if not error.retryable:
            kept = _Refusal(_unraised(error))
            self._keep(key, kept, self._lifetimes.negative, self._lifetimes.negative)
            return refusal
        known = self._entries.get(key)
        if known is None or not self._may_stand_in(known):
            return refusal
        known.fresh_until = self._clock() + self._lifetimes.retry
        return known.outcome

    def _may_stand_in(self, entry: _Entry[V]) -> bool:
        return isinstance(entry.outcome, _Answer) and self._clock() < entry.stale_until

    def _keep(self, key: K, outcome: _Answer[V] | _Refusal, fresh: float, stale: float) -> None:
        now = self._clock()
        self._entries[key] = _Entry(outcome, now + fresh, now + stale)
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)


def _unwrap(outcome: _Answer[V] | _Refusal) -> V:
    if isinstance(outcome, _Refusal):
        raise _unraised(outcome.error) from outcome.error.__cause__
    return outcome.value


def _unraised(error: WarmbaseError) -> WarmbaseError:
    """Return such an error without what an error has that was raised: the frames that it passed.

    They hold the requests that ran into it, with their bodies, for as long as it is kept.
    """
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy
