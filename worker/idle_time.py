"""The time that the compute device idles between two drawings, by what it waits for."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

from worker.metrics import Gap


class IdleTime:
    """Books each part of a gap under what was waited for in it. One thread at a time uses it.

    What comes before the first drawing is no gap.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._reason = Gap.WORK
        self._since: float | None = None
        self._parts: defaultdict[Gap, float] = defaultdict(float)

    def wait_for(self, reason: Gap) -> None:
        """From now on it is `reason` that is waited for."""
        self._book()
        self._reason = reason

    def turns_out(self, reason: Gap) -> None:
        """It is `reason` that is waited for, and has been since that last changed."""
        self._reason = reason

    def begin(self) -> None:
        """A drawing has ended: until more is known, only the worker itself is waited for."""
        self._reason = Gap.TURNOVER
        self._since = self._clock()

    def end(self) -> Mapping[Gap, float]:
        """A drawing begins: return the seconds of the gap before it."""
        self._book()
        parts, self._parts, self._since = self._parts, defaultdict(float), None
        return parts

    @contextmanager
    def other_work(self) -> Iterator[None]:
        """Leave out what the device does while inside."""
        self._book()
        is_idle, self._since = self._since is not None, None
        try:
            yield
        finally:
            self._since = self._clock() if is_idle else None

    def _book(self) -> None:
        if self._since is not None:
            now = self._clock()
            self._parts[self._reason] += now - self._since
            self._since = now
