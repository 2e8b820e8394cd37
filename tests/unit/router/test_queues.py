"""Why an enqueue was refused, told to the client."""

import pytest

from router.queues import LONGEST_RETRY, SHORTEST_RETRY, refusal
from shared.errors import AdapterRejected, NoPoolForBase, QueueFull
from shared.queue.terms import Admission, Enqueued
from tests.builders import a_job


def an_admission(outcome: Enqueued, seconds: float = 0.0) -> Admission:
    return Admission(outcome=outcome, job=a_job().id, seconds=seconds)


@pytest.mark.parametrize("outcome", [Enqueued.FULL, Enqueued.TENANT_FULL])
@pytest.mark.parametrize(
    ("waiting", "workers", "seconds"),
    [(80.0, 2, 40.0), (80.0, 0, 80.0), (0.0, 1, SHORTEST_RETRY), (1e6, 1, LONGEST_RETRY)],
)
def test_who_finds_the_queue_full_comes_again_when_the_workers_have_done_what_waits(
    outcome, waiting, workers, seconds
):
    error = refusal(an_admission(outcome, waiting), a_job(), workers)
    assert isinstance(error, QueueFull)
    assert error.retry_after == seconds


def test_adapters_in_quarantine_are_refused_with_the_time_it_lasts():
    error = refusal(an_admission(Enqueued.QUARANTINED, 120.0), a_job(), 1)
    assert isinstance(error, AdapterRejected)
    assert "another 120 s" in error.message


def test_a_base_that_is_drained_takes_no_jobs():
    assert isinstance(refusal(an_admission(Enqueued.CLOSED), a_job(), 1), NoPoolForBase)
