"""Threads that share out a CPU's weights between them.

PyTorch splits one operation over its threads, and most weights are too small for that: the threads would take
as long to wake as to work. Here each thread has weights of its own, and runs their operations alone.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

Work = Callable[[Sequence[T]], R]


class Lanes:
    """A number of threads, or where it is 1, the caller's own."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads = _single_threaded(count) if count > 1 else None

    def run(self, work: Work[T, R], items: Sequence[T], cost: Callable[[T], float]) -> list[R]:
        """Return what `work` gives for shares of `items` of about the same cost, one in each lane.

        Comes back when all have ended, also if one of them failed: then with its exception.
        """
        if self._threads is None:
            return [work(items)]
        shares = spread(items, cost, self._count)
        running = [self._threads.submit(work, share) for share in shares]
        wait(running)
        return [each.result() for each in running]


@cache
def lanes_of(count: int) -> Lanes:
    """Return the process' lanes of that number: more threads than cores would be in each other's way."""
    return Lanes(count)


def spread(items: Sequence[T], cost: Callable[[T], float], count: int) -> list[list[T]]:
    """Deal `items` out into up to `count` shares, the most expensive first, to and fro; none is empty."""
    shares: list[list[T]] = [[] for _ in range(count)]
    for place, item in enumerate(sorted(items, key=cost, reverse=True)):
        turn, seat = divmod(place, count)
        shares[seat if turn % 2 == 0 else count - 1 - seat].append(item)
    return [share for share in shares if share]


def _single_threaded(count: int) -> ThreadPoolExecutor:
    """Start threads in each of which PyTorch uses no others.

    `torch.set_num_threads` speaks for the calling thread, and for all that start later; so what it was is
    set again when all are there.
    """
    before = torch.get_num_threads()
    all_are_here = Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first call of PyTorch gives it the number of all
        torch.set_num_threads(1)
        all_are_here.wait()

    threads = ThreadPoolExecutor(count, thread_name_prefix="weights", initializer=begin)
    for _ in range(count):
        threads.submit(lambda: None)
    all_are_here.wait()
    torch.set_num_threads(before)
    return threads
