"""What a thread that only runs Python costs an image that is drawn beside it.

    python tests/bench/switch_interval.py [--rounds 3]

The demo's base, images of two steps. The arms, in turn: alone; beside a thread that never leaves Python and
may keep its global lock for as long as Python itself lets it; and the same with the interval that a worker
sets. Reading an adapter with a new header, a large answer of the Hub, or a scrape of the metrics is such a
thread for some milliseconds.
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.bench.swap_bases import HUB, demo_engine
from tests.bench.swap_figures import machine, quieten
from tests.builders import some_params
from worker.__main__ import SWITCH_INTERVAL

INTERVALS = {"Python's own": sys.getswitchinterval(), "the worker's": SWITCH_INTERVAL}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    quieten()
    print(machine("cpu"))
    engine = demo_engine(argparse.Namespace(device="cpu", base=HUB / "shapes-xl"))
    params = some_params(steps=2)

    def draw() -> float:
        started = time.perf_counter()
        engine.generate(params, lambda _done, _total: None)
        return time.perf_counter() - started

    draw()
    alone: list[float] = []
    beside: dict[str, list[float]] = {arm: [] for arm in INTERVALS}
    others: dict[str, list[float]] = {arm: [] for arm in INTERVALS}
    for _ in range(rounds):
        alone.append(draw())
        for arm, interval in INTERVALS.items():
            with a_busy_thread(interval) as turns:
                beside[arm].append(draw())
                others[arm].append(turns() / beside[arm][-1])
    bare, usual = statistics.median(alone), statistics.median(others["Python's own"])
    print(f"\nan image of {params.steps} steps, medians of {rounds}")
    print(f"  alone                               {bare * 1e3:10.1f} ms")
    for arm, interval in INTERVALS.items():
        took, work = statistics.median(beside[arm]), statistics.median(others[arm])
        print(
            f"  beside, {arm:14} {interval * 1e3:4g} ms     {took * 1e3:10.1f} ms   "
            f"{took / bare:.1f} x alone; the thread does {work / usual:.2f} of its work"
        )


@contextmanager
def a_busy_thread(interval: float) -> Iterator[Callable[[], int]]:
    """Keep a thread in Python, with that switch interval; give what counts its turns so far."""
    before = sys.getswitchinterval()
    ended, turns = threading.Event(), [0]

    def run() -> None:
        while not ended.is_set():
            sum(each * each for each in range(1000))
            turns[0] += 1

    thread = threading.Thread(target=run)
    sys.setswitchinterval(interval)
    thread.start()
    try:
        yield lambda: turns[0]
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(before)


if __name__ == "__main__":
    main()
