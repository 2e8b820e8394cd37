"""Which waiting job a worker gets: the rule as a pure function. `lua/claim.lua` does the same on the server.

Within a priority, jobs stand in the order of their scores: weighted fair tags, the virtual time at which a
fair server would have finished them (start-time fair queueing, Goyal et al. 1996). Virtual time is counted
in work, steps x pixels. A worker may pass the head for a job whose adapters it holds already, but only
within three bounds: at most `slack` of work is passed, the head has been passed fewer than `max_overtakes`
times, and it has not waited for `max_age`. What is in the weights saves a swap, what is in memory only a
fetch: the latter may use up no more than half of the overtakes.

A priority comes before all lower ones, except that one claim in `TURN` goes to a lower head that has waited
for `max_age`: it neither starves, nor turns the order around when all are late.
"""

from collections.abc import Sequence
from dataclasses import dataclass

TURN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What affinity may cost the others.

    Attributes:
        slack: virtual time by which a job may be passed.
        max_overtakes: how often a waiting job may be passed.
        max_age: seconds of waiting after which it is not passed any more.
    """

    slack: float
    max_overtakes: int
    max_age: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The first job of one priority, and how it has fared.

    Attributes:
        score: its place; in virtual time, above those of every higher priority.
        waited: seconds.
        overtaken: claims that took a later job of this priority and may have passed it.
        hot: for each affinity that the worker holds, active first, the score of its first job of this
            priority; None where no such job waits.
    """

    score: int
    waited: float
    overtaken: int
    hot: Sequence[int | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The job to take.

    Attributes:
        priority: its index.
        hot: the index of its affinity among the head's `hot`; None for the head itself.
    """

    priority: int
    hot: int | None


def choose(heads: Sequence[Head | None], passed: int, bounds: Bounds) -> Choice | None:
    """Return the job to take; None when none waits.

    Args:
        heads: one for each priority, highest first; None where no job waits.
        passed: claims since a lower priority last got its turn, while it had one coming.
        bounds: what affinity may cost.
    """
    waiting = [(priority, head) for priority, head in enumerate(heads) if head]
    owed = [each for each in waiting[1:] if is_owed_a_turn(each[1], bounds)]
    for priority, head in (owed if passed >= TURN - 1 else []) + waiting:
        return Choice(priority=priority, hot=_hot_within(head, bounds))
    return None


def is_owed_a_turn(head: Head, bounds: Bounds) -> bool:
    """Whether a lower priority's head has waited too long."""
    return head.waited > bounds.max_age


def _hot_within(head: Head, bounds: Bounds) -> int | None:
    if head.waited > bounds.max_age or head.overtaken >= bounds.max_overtakes:
        return None
    near = [
        (score, index)
        for index, score in enumerate(head.hot)
        if score is not None and score <= head.score + bounds.slack
        if index == 0 or head.overtaken < bounds.max_overtakes / 2
    ]
    if not near:
        return None
    # What is in the weights needs no swap at all.
    return 0 if near[0][1] == 0 else min(near)[1]
