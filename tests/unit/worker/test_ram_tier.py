from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from worker.ram_tier import RamTier

KEYS = st.sampled_from("abcdef")
SIZES = st.integers(min_value=0, max_value=60)


@dataclass(frozen=True)
class Blob:
    nbytes: int
    digest: str = ""


class RamTierLaws(RuleBasedStateMachine):
    """The tier against a plain list of what was used when, most recent last."""

    uses = Bundle("uses")

    @initialize(budget=st.integers(min_value=0, max_value=100))
    def begin(self, budget: int) -> None:
        self.budget = budget
        self.evicted: list[str] = []
        self.tier = RamTier[str, Blob](budget, self.evicted.append)
        self.used: list[str] = []  # never drops a key, so that it knows the order of all that was here
        self.held: dict[str, Blob] = {}
        self.pinned: list[frozenset[str]] = []

    @rule(key=KEYS, size=SIZES)
    def put(self, key: str, size: int) -> None:
        blob = Blob(size)
        self.held[key] = blob
        self._touch(key)
        self.tier.put(key, blob)
        self._check_evictions()

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        found = self.tier.get(key)
        assert found is self.held.get(key)
        if found is not None:
            self._touch(key)

    @rule(target=uses, keys=st.frozensets(KEYS, min_size=1, max_size=3))
    def begin_use(self, keys: frozenset[str]) -> object:
        use = self.tier.in_use(keys)
        use.__enter__()
        self.pinned.append(keys)
        return use, keys

    @rule(use=consumes(uses))
    def end_use(self, use) -> None:
        context, keys = use
        self.pinned.remove(keys)
        context.__exit__(None, None, None)
        self._check_evictions()

    @invariant()
    def bytes_are_counted(self) -> None:
        assert self.tier.nbytes == sum(blob.nbytes for blob in self.held.values())

    @invariant()
    def what_is_not_in_use_fits_into_the_budget(self) -> None:
        if self.tier.nbytes > self.budget:
            assert self.held.keys() <= self._in_use()

    def _touch(self, key: str) -> None:
        self.used = [other for other in self.used if other != key] + [key]

    def _in_use(self) -> set[str]:
        return set().union(*self.pinned)

    def _check_evictions(self) -> None:
        """Take over what was evicted: it was not in use, and nothing that stayed was less recently used."""
        for key in self.evicted:
            assert key not in self._in_use()
            before = sum(blob.nbytes for blob in self.held.values())
            assert before > self.budget, "evicted without need"
            del self.held[key]
            stayed = self.held.keys() - self._in_use() - set(self.evicted)
            assert all(self.used.index(key) < self.used.index(other) for other in stayed)
        self.evicted.clear()


TestRamTierLaws = RamTierLaws.TestCase


def test_an_adapter_larger_than_the_budget_stays_only_while_it_is_in_use() -> None:
    tier = RamTier[str, Blob](10, lambda _key: None)
    with tier.in_use(frozenset({"large"})):
        tier.put("large", Blob(11))
        assert tier.get("large") is not None
    assert tier.get("large") is None
    assert tier.nbytes == 0


def test_an_adapter_that_two_jobs_use_stays_until_both_have_ended() -> None:
    tier = RamTier[str, Blob](0, lambda _key: None)
    with tier.in_use(frozenset({"shared"})):
        with tier.in_use(frozenset({"shared"})):
            tier.put("shared", Blob(1))
        assert tier.get("shared") is not None
    assert tier.get("shared") is None
