"""How long to wait between attempts."""

from collections.abc import Callable, Iterator
from secrets import SystemRandom

_uniform = SystemRandom().uniform

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0


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


def retry_delay(attempt: int, uniform: Callable[[float, float], float] = _uniform) -> float:
    """Return the seconds after which a job whose `attempt`, from 1, failed may be claimed again.

    They double with each attempt up to a bound, and are drawn from the upper half, so that jobs which failed
    together do not come back together, and none comes back at once.
    """
    bound = min(FIRST_DELAY * 2.0 ** (attempt - 1), LONGEST_DELAY)
    return uniform(bound / 2, bound)
