from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from worker.backoff import LONGEST_DELAY, backoff, retry_delay


def test_the_bound_doubles_up_to_the_longest() -> None:
    bounds = backoff(1.0, 5.0, uniform=lambda _low, high: high)

    assert list(islice(bounds, 5)) == [1.0, 2.0, 4.0, 5.0, 5.0]


@given(first=st.floats(0.01, 10), longest=st.floats(10, 100))
def test_each_wait_is_drawn_between_nothing_and_the_bound(first: float, longest: float) -> None:
    assert all(0 <= wait <= longest for wait in islice(backoff(first, longest), 20))
    assert next(backoff(first, longest)) <= first


def test_a_retry_waits_twice_as_long_each_time_up_to_a_bound() -> None:
    delays = [retry_delay(attempt, uniform=lambda _low, high: high) for attempt in range(1, 40)]

    assert delays[1] == 2 * delays[0]
    assert delays[-1] == LONGEST_DELAY


@given(attempt=st.integers(1, 100))
def test_a_retry_never_comes_at_once(attempt: int) -> None:
    assert retry_delay(1) > 0
    assert 0 < retry_delay(attempt) <= LONGEST_DELAY
