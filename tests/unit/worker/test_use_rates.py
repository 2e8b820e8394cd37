import pytest

from worker import use_rates
from worker.use_rates import HALF_LIVES, UseRates


def test_a_key_with_every_use_has_the_rate_of_one_in_each_average() -> None:
    rates = UseRates[str]()
    for _ in range(20_000):
        rates.note("a")
    assert rates.rate("a") == pytest.approx(len(HALF_LIVES), rel=1e-3)


def test_what_was_never_used_has_no_rate() -> None:
    assert UseRates[str]().rate("a") == 0.0


def test_a_rate_fades_with_the_uses_of_others() -> None:
    rates = UseRates[str]()
    rates.note("a")
    before = rates.rate("a")
    rates.note("b")
    assert 0 < rates.rate("a") < before
    assert rates.rate("a") < rates.rate("b")


def test_keys_that_have_not_been_used_for_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_rates, "MOST_KNOWN", 2)
    rates = UseRates[str]()
    for key in ("a", "b", "a", "c"):
        rates.note(key)
    assert rates.rate("b") == 0.0
    assert rates.rate("a") > 0
