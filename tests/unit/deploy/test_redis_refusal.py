import pytest
from redis import exceptions

from deploy.redis_refusal import why_unavailable
from shared.errors import QueueUnavailable


def unavailable(cause, *below):
    for lower in below:
        cause.__cause__ = lower
    error = QueueUnavailable("the queue does not answer")
    error.__cause__ = cause
    return error


def test_a_server_that_is_silent_is_named():
    said = why_unavailable(unavailable(exceptions.TimeoutError()), "redis://h:1/0")
    assert said.startswith("Redis at h:1 does not answer: look at --redis or REDIS_URL")


@pytest.mark.parametrize(
    "error",
    [
        unavailable(exceptions.AuthenticationError("WRONGPASS")),
        unavailable(exceptions.RedisClusterException("none answers"), exceptions.AuthenticationError()),
    ],
)
def test_a_wrong_password_is_no_outage(error):
    assert "refuses the user or the password" in why_unavailable(error, "redis://h")


def test_a_right_that_is_missing_is_named_with_where_to_read_of_it():
    cause = exceptions.NoPermissionError("User has no permissions to run the 'zcard' command")
    said = why_unavailable(unavailable(cause), "redis://h")
    assert "'zcard'" in said
    assert "deploy/redis.md" in said


def test_what_the_server_says_itself_is_passed_on():
    cause = exceptions.ReadOnlyError("You can't write against a read only replica.")
    assert "read only replica" in why_unavailable(unavailable(cause), "redis://h")


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("redis://h", "h"),
        ("rediss://:hunter2@h:6380/1?ssl_ca_certs=/ca.pem", "h:6380"),
        ("redis+sentinel://me:hunter2@a:1,b:2/queue", "a:1,b:2"),
        ("redis+cluster://[::1]:7000", "[::1]:7000"),
    ],
)
def test_of_the_address_only_the_hosts_are_said(url, hosts):
    said = why_unavailable(unavailable(exceptions.ConnectionError()), url)
    assert said.startswith(f"Redis at {hosts} does not answer")


@pytest.mark.parametrize(
    "url",
    [
        "unix://me:hunter2@/run/redis.sock",
        "redis://me:hun/ter2@h",
        "redis://me:hun?ter2@h",
        "redis://h?password=hun@ter2",
    ],
)
def test_one_in_which_a_password_may_be_anywhere_is_not_said_at_all(url):
    said = why_unavailable(unavailable(exceptions.ConnectionError()), url)
    assert said.startswith("Redis does not answer")
    assert "hun" not in said
