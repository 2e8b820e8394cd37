"""The RAM tier: ingested adapters, least recently used out first, bounded in bytes. Pure."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from worker.engine.contract import Adapter

K = TypeVar("K", bound=Hashable)
A = TypeVar("A", bound=Adapter)


class RamTier(Generic[K, A]):
    """Adapters by key. What is in use stays, even above the budget; all else fits into it."""

    def __init__(self, budget: int, on_evict: Callable[[K], object]) -> None:
        """Hold `budget` bytes; tell `on_evict` what had to leave."""
        self._budget = budget
        self._on_evict = on_evict
        self._adapters: OrderedDict[K, A] = OrderedDict()
        self._uses: Counter[K] = Counter()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all adapters here."""
        return self._nbytes

    def __contains__(self, key: K) -> bool:
        """Whether the adapter is here; asking does not count as use."""
        return key in self._adapters

    def get(self, key: K) -> A | None:
        """Return the adapter, now the most recently used, or None."""
        adapter = self._adapters.get(key)
        if adapter is not None:
            self._adapters.move_to_end(key)
        return adapter

    def put(self, key: K, adapter: A) -> None:
        """Keep the adapter as the most recently used, in place of what `key` named before."""
        self._drop(key)
        self._adapters[key] = adapter
        self._nbytes += adapter.nbytes
        self._shrink()

    @contextmanager
    def in_use(self, keys: frozenset[K]) -> Iterator[None]:
        """Keep what `keys` name, already here or not, while inside."""
        self._uses.update(keys)
        try:
            yield
        finally:
            self._uses.subtract(keys)
            self._uses += Counter()  # forgets the keys that nobody uses any more
            self._shrink()

    def _shrink(self) -> None:
        for key in [key for key in self._adapters if key not in self._uses]:
            if self._nbytes <= self._budget:
                return
            self._drop(key)
            self._on_evict(key)

    def _drop(self, key: K) -> None:
        adapter = self._adapters.pop(key, None)
        if adapter is not None:
            self._nbytes -= adapter.nbytes
