from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tests.builders import known
from worker.tier import Tier

KEYS = st.sampled_from("abcdef")
SIZES = st.integers(min_value=0, max_value=60)
PINNED = "f"


@dataclass(frozen=True)
class Blob:
    nbytes: int
    file_nbytes: int = 0
    digest: Future[str] = field(default_factory=known, compare=False)


class TierLaws(RuleBasedStateMachine):
    """The tier against a plain table of what it should hold."""

    uses = Bundle("uses")
    expectations = Bundle("expectations")
    reservations = Bundle("reservations")

    @initialize(budget=st.integers(min_value=0, max_value=100))
    def begin(self, budget: int) -> None:
        self.budget = budget
        self.evictions = 0
        self.tier = Tier[str, Blob](budget, is_pinned=PINNED.__eq__, on_evict=self.evicted)
        self.held: dict[str, Blob] = {}
        self.used: list[frozenset[str]] = []
        self.expected: list[frozenset[str]] = []
        self.reservations_of: Counter[str] = Counter()

    def evicted(self) -> None:
        self.evictions += 1

    @rule(key=KEYS, size=SIZES)
    def put(self, key: str, size: int) -> None:
        self.held[key] = Blob(size)
        self.tier.put(key, self.held[key])
        self._check_evictions()

    @rule(key=KEYS)
    def use(self, key: str) -> None:
        assert self.tier.use(key) is self.held.get(key)

    @rule(target=reservations, key=KEYS, size=SIZES, at_any_rate=st.booleans())
    def reserve(self, key: str, size: int, at_any_rate: bool) -> tuple[str, int]:
        used = sum(blob.nbytes for key, blob in self.held.items() if key in self._in_use())
        fits = used + self.reserved + size <= self.budget
        assert self.tier.reserve(key, size, at_any_rate=at_any_rate) is (fits or at_any_rate)
        taken = size if fits or at_any_rate else 0
        self.reservations_of[key] += taken
        self._check_evictions()
        return key, taken

    @rule(reservation=consumes(reservations))
    def release(self, reservation: tuple[str, int]) -> None:
        key, size = reservation
        self.tier.release(key, size)
        self.reservations_of[key] -= size

    @rule(target=uses, keys=st.frozensets(KEYS, min_size=1, max_size=3))
    def begin_use(self, keys: frozenset[str]) -> object:
        use = self.tier.in_use(keys)
        use.__enter__()
        self.used.append(keys)
        return use, keys

    @rule(use=consumes(uses))
    def end_use(self, use) -> None:
        context, keys = use
        self.used.remove(keys)
        context.__exit__(None, None, None)
        self._check_evictions()

    @rule(target=expectations, keys=st.frozensets(KEYS, min_size=1, max_size=3))
    def expect(self, keys: frozenset[str]) -> object:
        expectation = self.tier.expected(dict.fromkeys(keys, 5))
        expectation.__enter__()
        self.expected.append(keys)
        return expectation, keys

    @rule(expectation=consumes(expectations))
    def expect_no_more(self, expectation) -> None:
        context, keys = expectation
        self.expected.remove(keys)
        context.__exit__(None, None, None)

    @invariant()
    def bytes_are_counted(self) -> None:
        assert self.tier.nbytes == sum(blob.nbytes for blob in self.held.values())

    @invariant()
    def what_is_not_in_use_fits_into_the_budget(self) -> None:
        if self.tier.nbytes + self.reserved > self.budget:
            assert self.held.keys() <= self._in_use()

    @invariant()
    def what_fits_into_the_room_pushes_out_nothing_that_is_wanted(self) -> None:
        wanted = self._in_use() | self._wanted()
        here = sum(blob.nbytes for key, blob in self.held.items() if key in wanted)
        not_here = set().union(*self.expected) - self.held.keys()
        coming = sum(max(0, 5 - self.reservations_of[key]) for key in not_here)
        assert self.tier.room == self.budget - here - coming - self.reserved

    @property
    def reserved(self) -> int:
        return self.reservations_of.total()

    def _in_use(self) -> set[str]:
        return set().union(*self.used)

    def _wanted(self) -> set[str]:
        return set().union(*self.expected, {PINNED} & self.held.keys())

    def _check_evictions(self) -> None:
        """Take over what was evicted: with need, not in use, and nothing wanted before what is not."""
        gone = {key for key in self.held if key not in self.tier}
        assert len(gone) == self.evictions
        assert not gone & self._in_use()
        before = self.tier.nbytes + sum(self.held[key].nbytes for key in gone)
        if gone:
            assert before + self.reserved > self.budget, "evicted without need"
        if gone & self._wanted():
            assert self.held.keys() - gone <= self._in_use() | self._wanted()
        for key in gone:
            del self.held[key]
        self.evictions = 0


TestTierLaws = TierLaws.TestCase


def test_an_adapter_larger_than_the_budget_stays_only_while_it_is_in_use() -> None:
    tier = Tier[str, Blob](10)
    with tier.in_use(frozenset({"large"})):
        tier.put("large", Blob(11))
        assert tier.use("large") is not None
    assert tier.use("large") is None
    assert tier.nbytes == 0


def test_one_that_is_declared_and_being_made_takes_its_place_once() -> None:
    tier = Tier[str, Blob](10)
    with tier.expected({"coming": 6}):
        assert tier.reserve("coming", 6)
        assert tier.room == 4
        tier.release("coming", 6)
        tier.put("coming", Blob(6))
        assert tier.room == 4


def test_an_adapter_that_two_jobs_use_stays_until_both_have_ended() -> None:
    tier = Tier[str, Blob](0)
    with tier.in_use(frozenset({"shared"})):
        with tier.in_use(frozenset({"shared"})):
            tier.put("shared", Blob(1))
        assert tier.use("shared") is not None
    assert tier.use("shared") is None


def test_what_was_used_last_stays_of_two_that_are_alike() -> None:
    tier = Tier[str, Blob](20)
    for key in "ab":
        tier.use(key)
        tier.put(key, Blob(10))
    tier.use("a")
    assert tier.reserve("c", 1)
    assert ("a" in tier, "b" in tier) == (True, False)


def test_a_large_adapter_goes_before_several_small_ones_that_are_used_as_much() -> None:
    tier = Tier[str, Blob](30)
    for key, size in (("small", 5), ("large", 20), ("other", 5)):
        tier.use(key)
        tier.put(key, Blob(size))
    assert tier.reserve("new", 5)
    assert ("small" in tier, "other" in tier, "large" in tier) == (True, True, False)


def test_one_that_came_back_all_day_outlives_yesterday_s_favourite_and_a_passing_stranger() -> None:
    tier = Tier[str, Blob](2)
    for _ in range(100):
        tier.use("yesterday's favourite")
    for turn in range(3000):
        tier.use("regular" if turn % 20 == 0 else f"stranger {turn}")
    for key in ("yesterday's favourite", "regular"):
        tier.put(key, Blob(1))
    with tier.in_use(frozenset({"stranger"})):
        tier.use("stranger")
        tier.put("stranger", Blob(1))
        assert "regular" in tier
        assert "yesterday's favourite" not in tier


@pytest.mark.parametrize("size", [0, 1])
def test_sizes_of_nothing_are_no_trouble(size: int) -> None:
    tier = Tier[str, Blob](0)
    tier.put("a", Blob(size))
    assert ("a" in tier) is (size == 0)
