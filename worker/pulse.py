"""Signs of life of the compute thread, for those who watch it from another thread."""

from collections.abc import Callable
from time import monotonic


class Pulse:
    """Beats while the thread makes headway, rests while it has nothing to do. Safe across threads."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._last: float | None = None

    def beat(self) -> None:
        """Say that the thread has work and makes headway."""
        self._last = self._clock()

    def rest(self) -> None:
        """Say that the thread has nothing to do."""
        self._last = None

    def silence(self) -> float:
        """Return the seconds since the last beat; 0.0 at rest."""
        last = self._last
        return 0.0 if last is None else self._clock() - last
