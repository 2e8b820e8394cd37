"""A tier of adapters, in RAM or on the GPU: bounded in bytes, keeping what is used most per byte. Pure."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from worker.engine.contract import Adapter
from worker.use_rates import UseRates

K = TypeVar("K", bound=Hashable)
A = TypeVar("A", bound=Adapter)


class Tier(Generic[K, A]):
    """Adapters by key. What is in use stays, even above the budget; all else fits into it.

    What has to leave is what is used least per byte; but what is expected or pinned leaves last: for what is
    in use, or on its way to a job.
    """

    def __init__(
        self,
        budget: int,
        *,
        is_pinned: Callable[[K], bool] = lambda _key: False,
        on_evict: Callable[[], object] = lambda: None,
    ) -> None:
        """Hold `budget` bytes; tell `on_evict` of each adapter that had to leave."""
        self._budget = budget
        self._is_pinned = is_pinned
        self._on_evict = on_evict
        self._adapters: dict[K, A] = {}
        self._rates = UseRates[K]()
        self._uses: Counter[K] = Counter()
        self._expected: list[Mapping[K, int]] = []
        self._reserved: Counter[K] = Counter()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all adapters here."""
        return self._nbytes

    @property
    def room(self) -> int:
        """Bytes that may be taken ahead of time, without pushing out what is wanted or on its way."""
        declared: Counter[K] = Counter()
        for sizes in self._expected:
            declared |= Counter(sizes)
        declared -= self._reserved  # one that is being made has its place already
        wanted = {key for key in self._adapters if self.is_wanted(key)} | declared.keys()
        taken = sum(
            adapter.nbytes if (adapter := self._adapters.get(key)) else declared[key] for key in wanted
        )
        return self._budget - self._reserved.total() - taken

    def __contains__(self, key: K) -> bool:
        """Whether the adapter is here; asking does not count as use."""
        return key in self._adapters

    def is_wanted(self, key: K) -> bool:
        """Whether somebody uses or expects the adapter, or an operator has pinned it."""
        return key in self._uses or self._is_pinned(key) or any(key in sizes for sizes in self._expected)

    def is_in_use(self, key: K) -> bool:
        """Whether somebody uses the adapter, or is about to."""
        return key in self._uses

    def peek(self, key: K) -> A | None:
        """Return the adapter or None; this does not count as use."""
        return self._adapters.get(key)

    def use(self, key: K) -> A | None:
        """Return the adapter or None, and count a use either way."""
        self._rates.note(key)
        return self._adapters.get(key)

    def put(self, key: K, adapter: A) -> None:
        """Keep the adapter, in place of what `key` named before."""
        self._drop(key)
        self._adapters[key] = adapter
        self._nbytes += adapter.nbytes
        self._shrink()

    def reserve(self, key: K, nbytes: int, *, at_any_rate: bool = False) -> bool:
        """Set bytes aside for an adapter that is being made; false when what is in use leaves too few.

        `at_any_rate` sets them aside even then. Follows `release`.
        """
        used = sum(adapter.nbytes for held, adapter in self._adapters.items() if held in self._uses)
        if used + self._reserved.total() + nbytes > self._budget and not at_any_rate:
            return False
        self._reserved[key] += nbytes
        self._shrink()
        return True

    def release(self, key: K, nbytes: int) -> None:
        """Give back what was reserved."""
        self._reserved[key] -= nbytes
        self._reserved += Counter()  # forgets the keys that nothing is reserved for any more

    @property
    def has_reserved(self) -> bool:
        """Whether adapters are being made."""
        return self._reserved.total() > 0

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

    @contextmanager
    def expected(self, sizes: Mapping[K, int]) -> Iterator[None]:
        """Keep what the keys name while inside, unless what is in use or on its way needs its place.

        Args:
            sizes: bytes that each is going to have, for those that are not here yet.
        """
        self._expected.append(sizes)
        try:
            yield
        finally:
            # By identity: two expectations may be equal.
            self._expected = [each for each in self._expected if each is not sizes]

    def _shrink(self) -> None:
        while self._nbytes + self._reserved.total() > self._budget:
            idle = [key for key in self._adapters if key not in self._uses]
            if not idle:
                return
            self._drop(min(idle, key=self._value))
            self._on_evict()

    def _value(self, key: K) -> tuple[bool, float]:
        return self.is_wanted(key), self._rates.rate(key) / max(1, self._adapters[key].nbytes)

    def _drop(self, key: K) -> None:
        adapter = self._adapters.pop(key, None)
        if adapter is not None:
            self._nbytes -= adapter.nbytes
