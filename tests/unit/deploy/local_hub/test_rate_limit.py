import pytest

from deploy.local_hub.rate_limit import FixedWindowLimiter, RateLimits, Resource


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def limiter(now):
    return FixedWindowLimiter(RateLimits(api=2, window_s=10), lambda: now[0])


def test_requests_are_allowed_until_they_are_spent(limiter):
    quotas = [limiter.take(Resource.API, "alice") for _ in range(3)]

    assert [(quota.allowed, quota.remaining) for quota in quotas] == [(True, 1), (True, 0), (False, 0)]


def test_every_caller_has_requests_of_its_own(limiter):
    for _ in range(3):
        limiter.take(Resource.API, "alice")

    assert limiter.take(Resource.API, "bob").allowed


def test_a_new_window_begins_when_the_old_one_ends(limiter, now):
    for _ in range(3):
        limiter.take(Resource.API, "alice")
    now[0] += 9.5
    assert limiter.take(Resource.API, "alice").reset_s == 1
    now[0] += 0.5

    quota = limiter.take(Resource.API, "alice")

    assert (quota.allowed, quota.remaining, quota.reset_s) == (True, 1, 10)


def test_what_has_no_limit_is_not_counted(limiter):
    assert limiter.take(Resource.RESOLVERS, "alice") is None


def test_the_headers_are_those_that_the_client_parses(limiter):
    assert limiter.take(Resource.API, "alice").headers() == {
        "RateLimit": '"api";r=1;t=10',
        "RateLimit-Policy": '"fixed window";"api";q=2;w=10',
    }
