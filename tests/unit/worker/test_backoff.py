from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from worker.backoff import backoff


def test_the_bound_doubles_up_to_the_longest() -> None:
    bounds = backoff(1.0, 5.0, uniform=lambda _low, high: high)

    assert list(islice(bounds, 5)) == [1.0, 2.0, 4.0, 5.0, 5.0]


@given(first=st.floats(0.01, 10), longest=st.floats(10, 100))
def test_each_wait_is_drawn_between_nothing_and_the_bound(first: float, longest: float) -> None:
    assert all(0 <= wait <= longest for wait in islice(backoff(first, longest), 20))
    assert next(backoff(first, longest)) <= first
