from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice, pairwise
from math import sqrt

import pytest

from tests.bench.workloads import POINTS, Form, Service, jobs, popularity

JOBS = 40_000


def lru_hits(stream: Iterable[int], slots: int) -> float:
    """Return the share of a stream that a cache of so many adapters holds already."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = total = 0
    for adapter in stream:
        total += 1
        hits += adapter in cache
        cache[adapter] = None
        cache.move_to_end(adapter)
        if len(cache) > slots:
            cache.popitem(last=False)
    return hits / total


@pytest.mark.parametrize("service", Service)
def test_the_shares_meet_every_published_point_and_add_up_to_one(service):
    shares = popularity(service)

    for upto, share in POINTS[service]:
        assert sum(shares[:upto]) == pytest.approx(share)
    assert sum(shares) == pytest.approx(1.0)
    assert 6500 < len(shares) < 6700


@pytest.mark.parametrize("service", Service)
def test_within_a_stretch_the_more_popular_is_asked_for_more(service):
    shares = popularity(service)
    ends = {upto for upto, _ in POINTS[service]}

    assert all(
        more > less for rank, (more, less) in enumerate(pairwise(shares[:-1]), start=1) if rank not in ends
    )


@pytest.mark.parametrize("service", Service)
def test_independent_draws_meet_the_points_within_the_error_of_the_sample(service):
    drawn = list(islice(jobs(service, Form.INDEPENDENT, seed=3), JOBS))

    for upto, share in POINTS[service]:
        found = sum(adapter < upto for adapter in drawn) / JOBS
        assert abs(found - share) < 4 * sqrt(share * (1 - share) / JOBS)


@pytest.mark.parametrize("service", Service)
def test_repeats_leave_popularity_as_it_is_on_average(service):
    # A draw and its repeats are one observation: many short streams, of which the last job counts.
    streams = [next(islice(jobs(service, Form.REPEAT, seed), 100, None)) for seed in range(1000)]

    for upto, share in POINTS[service]:
        found = sum(adapter < upto for adapter in streams) / len(streams)
        assert abs(found - share) < 4 * sqrt(share * (1 - share) / len(streams))


def test_a_small_cache_finds_more_in_repeats_though_not_more_than_the_trace_shows():
    independent, repeat = (lru_hits(islice(jobs(Service.A, form), JOBS), slots=10) for form in Form)

    assert independent == pytest.approx(0.09, abs=0.01)
    assert repeat == pytest.approx(0.30, abs=0.02)


def test_a_seed_gives_the_same_stream_again():
    first, again, other = (list(islice(jobs(Service.B, Form.REPEAT, seed), 100)) for seed in (1, 1, 2))

    assert first == again != other
