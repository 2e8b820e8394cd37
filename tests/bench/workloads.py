"""Streams of jobs, as the adapter of each: who asks for what, after a published production trace.

Katz (SwiftDiffusion, USENIX ATC 2025) shows for two services of its trace, of 550,000 requests in 20 days,
which share of the requests the most popular adapters have. Those points, read off the artifact's figures:

- service A: the top 24 have 30 %, 146 have 50 %, 425 have 63 %, 989 have 74 %, 1,834 have 83 %, 4,500 have
  about 95 %;
- service B: the top 14 have 52 %, 104 have 72 %, 767 have 86 %, 1,420 have 90 %.

Every point is met exactly. Between two of them, and up to the first, an adapter's share falls as one over
its rank, Zipf's law, scaled so that the points are met; an equal share for all between two points would make
the very first adapters too rare. What the last point leaves over goes to further adapters, with shares that
go on falling as in the last stretch, until all is given away: about 6,600 adapters for either service.

Two forms:

- `independent`: each job's adapter is drawn by popularity, whatever came before. Hardly anybody works so.
- `repeat`: half of the jobs take the adapter of one of the `RECENT` jobs before them, each of these with the
  same chance; the others are drawn by popularity. So a user draws several pictures with an adapter before
  turning to the next, while other users' jobs come in between. The trace asks for it: on service A a cache of
  ten adapters saves at least 34 % of its loads, where `independent` would save it 9 %, and `repeat` 30 %.
  Every chain of repeats begins with a draw, so popularity is on average the same in both forms.
"""

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate, count
from types import MappingProxyType

RECENT = 40
REPEATED = 0.5


class Service(StrEnum):
    """The services of the trace."""

    A = "A"
    B = "B"


class Form(StrEnum):
    """How a job's adapter depends on those before it."""

    INDEPENDENT = "independent"
    REPEAT = "repeat"


POINTS: Mapping[Service, Sequence[tuple[int, float]]] = MappingProxyType(
    {
        Service.A: ((24, 0.30), (146, 0.50), (425, 0.63), (989, 0.74), (1834, 0.83), (4500, 0.95)),
        Service.B: ((14, 0.52), (104, 0.72), (767, 0.86), (1420, 0.90)),
    }
)
"""How many of the most popular adapters have which share of the requests."""


def popularity(service: Service) -> list[float]:
    """Return each adapter's share of the requests, the most popular first; they add up to one."""
    shares: list[float] = []
    scale = reached = 0.0
    for upto, share in POINTS[service]:
        stretch = range(len(shares) + 1, upto + 1)
        scale = (share - reached) / sum(1 / rank for rank in stretch)
        shares += [scale / rank for rank in stretch]
        reached = share
    for rank in count(len(shares) + 1):
        if reached + scale / rank >= 1.0:
            return [*shares, 1.0 - reached]
        shares.append(scale / rank)
        reached += scale / rank
    raise AssertionError


def jobs(service: Service, form: Form, seed: int = 1) -> Iterator[int]:
    """Yield, without end, the adapter of each job: its rank, from 0."""
    chance = random.Random(seed)  # noqa: S311 - the same jobs in every run
    cumulative = list(accumulate(popularity(service)))
    ranks = range(len(cumulative))
    recent: deque[int] = deque(maxlen=RECENT)
    while True:
        if form is Form.REPEAT and recent and chance.random() < REPEATED:
            adapter = chance.choice(recent)
        else:
            (adapter,) = chance.choices(ranks, cum_weights=cumulative)
        recent.append(adapter)
        yield adapter
