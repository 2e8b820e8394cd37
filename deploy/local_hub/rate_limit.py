"""Requests counted per caller in fixed windows, as the Hub does for its API and its file resolvers."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Resource(StrEnum):
    """What is counted separately, in the Hub's words."""

    API = "api"
    RESOLVERS = "resolvers"


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimits:
    """How many requests a caller has in a window; None counts nothing."""

    api: int | None = None
    resolvers: int | None = None
    window_s: int = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """What is left to a caller after a request."""

    resource: Resource
    limit: int
    remaining: int
    reset_s: int
    window_s: int
    allowed: bool

    def headers(self) -> dict[str, str]:
        """Return the headers that the client reads (`parse_ratelimit_headers`)."""
        return {
            "RateLimit": f'"{self.resource}";r={self.remaining};t={self.reset_s}',
            "RateLimit-Policy": f'"fixed window";"{self.resource}";q={self.limit};w={self.window_s}',
        }


class FixedWindowLimiter:
    """Counts requests. All callers share the window's beginning, so that old counts leave together."""

    def __init__(self, limits: RateLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._window_ends = clock() + limits.window_s
        self._used: Counter[tuple[Resource, str]] = Counter()

    def take(self, resource: Resource, caller: str) -> Quota | None:
        """Count one request of `caller`; None where the resource has no limit."""
        limit = self._limits.api if resource is Resource.API else self._limits.resolvers
        if limit is None:
            return None
        now = self._clock()
        if now >= self._window_ends:
            self._used.clear()
            self._window_ends = now + self._limits.window_s
        self._used[resource, caller] += 1
        used = self._used[resource, caller]
        return Quota(
            resource=resource,
            limit=limit,
            remaining=max(limit - used, 0),
            reset_s=max(math.ceil(self._window_ends - now), 1),
            window_s=self._limits.window_s,
            allowed=used <= limit,
        )
