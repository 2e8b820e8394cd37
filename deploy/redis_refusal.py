"""Why Redis does not serve a command, for the operator who called it."""

import re
from collections.abc import Iterator

from redis import exceptions

from shared.errors import QueueUnavailable
from shared.server_check import certificate_problem


def why_unavailable(error: QueueUnavailable | exceptions.RedisError, url: str) -> str:
    """Return why Redis cannot serve, and what to do. Of its address only hosts are said, never a password."""
    where = _hosts(url)
    server = f"Redis at {where}" if where else "Redis"
    if problem := certificate_problem(error):
        return f"{server}: {problem}"
    for cause in _causes(error):
        if isinstance(cause, exceptions.AuthenticationError):
            return f"{server} refuses the user or the password: correct them in --redis or REDIS_URL"
        if isinstance(cause, exceptions.NoPermissionError):
            return f"{server} refuses this user: {cause}; deploy/redis.md says what an operator's may do"
        if isinstance(cause, exceptions.ResponseError):  # full, or a replica
            return f"{server} cannot do that now: {cause}"
    return f"{server} does not answer: look at --redis or REDIS_URL, and whether it runs"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what lies below it: a cluster's client wraps what its nodes said."""
    cause: BaseException | None = error
    while cause:
        yield cause
        cause = cause.__cause__


def _hosts(url: str) -> str:
    """Return the hosts of an address; nothing where an `@` leaves in doubt what is a password."""
    match = re.fullmatch(r"[a-z+]+://(?:[^@/?#]*@)?([^@/?#]+)(?:[/?#][^@]*)?", url)
    return match[1] if match else ""
