from hypothesis import given
from hypothesis import strategies as st

from router.queues import FIRST_GUESS, LONGEST_RETRY, SHORTEST_RETRY, Pace


def test_without_experience_a_job_takes_the_first_guess():
    assert Pace().drain_seconds("tag", waiting=8, workers=2) == 4 * FIRST_GUESS


def test_the_pace_of_a_base_follows_its_jobs():
    pace = Pace()
    for _ in range(50):
        pace.observe("tag", 2.0)
    assert pace.drain_seconds("tag", waiting=10, workers=1) == 20.0
    assert pace.drain_seconds("other", waiting=10, workers=1) == 10 * FIRST_GUESS


@given(st.integers(0, 10**6), st.integers(0, 100), st.floats(0, 10**6))
def test_a_client_is_sent_away_for_a_bearable_time(waiting, workers, seconds):
    pace = Pace()
    pace.observe("tag", seconds)
    assert SHORTEST_RETRY <= pace.drain_seconds("tag", waiting, workers) <= LONGEST_RETRY
