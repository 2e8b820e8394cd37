"""How often each adapter is used, by recency first: what a tier keeps is decided by it. Pure."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

HALF_LIVES = (20.0, 1000.0)
"""In uses of all keys together. The fast average sees who is at work now, the slow one who comes back."""

MOST_KNOWN = 10_000
"""Keys that are remembered, those that left the tier included: one that comes back is no stranger."""


class UseRates(Generic[K]):
    """Uses per use of any key: the sum of a fast and a slow average, each fading with every use.

    One average is not enough. A fast one alone forgets who comes back all day; a slow one, like a plain
    count, keeps yesterday's favourite (LFU is worse than LRU on the trace of `tests/bench/workloads.py`).
    """

    def __init__(self) -> None:
        self._now = 0
        self._known: OrderedDict[K, tuple[int, tuple[float, ...]]] = OrderedDict()

    def note(self, key: K) -> None:
        """Count a use."""
        self._now += 1
        faded = self._faded(key)
        # What a use adds is scaled so that a key with every use has the rate 1 in each average.
        added = (value + 1 - _fade(each, 1) for value, each in zip(faded, HALF_LIVES, strict=True))
        self._known[key] = self._now, tuple(added)
        self._known.move_to_end(key)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def rate(self, key: K) -> float:
        """Return the key's rate now; 0.0 for one never used."""
        return sum(self._faded(key))

    def _faded(self, key: K) -> tuple[float, ...]:
        then, values = self._known.get(key, (self._now, (0.0,) * len(HALF_LIVES)))
        age = self._now - then
        return tuple(value * _fade(each, age) for value, each in zip(values, HALF_LIVES, strict=True))


def _fade(half_life: float, age: int) -> float:
    return float(0.5 ** (age / half_life))
