"""How long to wait between attempts."""

from collections.abc import Callable, Iterator
from secrets import SystemRandom

_uniform = SystemRandom().uniform


def backoff(
    first: float, longest: float, uniform: Callable[[float, float], float] = _uniform
) -> Iterator[float]:
    """Yield seconds to wait before each further attempt, without end.

    The bound doubles from `first` up to `longest`; each wait is drawn evenly below it, so that clients which
    lost a server together do not come back together ("full jitter", Brooker 2015).
    """
    bound = first
    while True:
        yield uniform(0.0, bound)
        bound = min(2 * bound, longest)
