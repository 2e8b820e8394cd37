"""What a RAM tier should keep: hit rates of its rule, of LRU, of LFU, and of one who knows the future.

    python tests/bench/eviction.py [--jobs 8000] [--budgets 2048 4096 8192 32768]

One worker, jobs by the published popularity in the form where users come back (`workloads.py`, `repeat`).
Each adapter has one of four sizes, in MB, smaller ones more often. All arms have the same bytes and see the
same jobs. What is best is not known for adapters of several sizes; the reference is the better of two rules
that know the next use of each: evict what is used last (Belady), or what takes most bytes for longest.
"""

import argparse
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice

from tests.bench.workloads import Form, Service, jobs
from tests.builders import known
from worker.tier import Tier

SIZES, SHARES = (24, 85, 200, 340), (4, 3, 2, 1)
NEVER = 1 << 60


@dataclass(frozen=True, slots=True)
class Sized:
    """An adapter that is only its size."""

    nbytes: int
    digest: Future[str] = field(default_factory=known, compare=False)


Rule = Callable[[Sequence[int], int], int]
"""Jobs and a budget -> hits."""


def size_of(adapter: int) -> int:
    return random.Random(adapter * 7919 + 13).choices(SIZES, SHARES)[0]  # noqa: S311 - the same in every run


def ours(trace: Sequence[int], budget: int) -> int:
    tier, hits = Tier[int, Sized](budget), 0
    for adapter in trace:
        with tier.in_use(frozenset({adapter})):
            if tier.use(adapter) is not None:
                hits += 1
                continue
            nbytes = size_of(adapter)
            tier.reserve(adapter, nbytes)
            tier.release(adapter, nbytes)
            tier.put(adapter, Sized(nbytes))
    return hits


def lru(trace: Sequence[int], budget: int) -> int:
    held: OrderedDict[int, int] = OrderedDict()
    used = hits = 0
    for adapter in trace:
        if adapter in held:
            hits += 1
        else:
            held[adapter] = size_of(adapter)
            used += held[adapter]
        held.move_to_end(adapter)
        while used > budget:
            used -= held.popitem(last=False)[1]
    return hits


def lfu(trace: Sequence[int], budget: int) -> int:
    """Counts are kept for those that left, which is the kinder of the two usual forms."""
    held: dict[int, int] = {}
    counts: Counter[int] = Counter()
    used = hits = 0
    for adapter in trace:
        counts[adapter] += 1
        if adapter in held:
            hits += 1
            held[adapter] = held.pop(adapter)  # behind the others: ties go to the least recently used
        else:
            held[adapter] = size_of(adapter)
            used += held[adapter]
        while used > budget:
            used -= held.pop(min((each for each in held if each != adapter), key=counts.__getitem__))
    return hits


def knowing(trace: Sequence[int], budget: int) -> int:
    return max(_knowing(trace, budget, weigh=weigh) for weigh in (False, True))


def _knowing(trace: Sequence[int], budget: int, *, weigh: bool) -> int:
    following = [NEVER] * len(trace)
    seen: dict[int, int] = {}
    for place in range(len(trace) - 1, -1, -1):
        following[place] = seen.get(trace[place], NEVER)
        seen[trace[place]] = place
    held: dict[int, int] = {}
    due: dict[int, int] = {}
    used = hits = 0
    for now, adapter in enumerate(trace):
        if adapter in held:
            hits += 1
        else:
            held[adapter] = size_of(adapter)
            used += held[adapter]
        due[adapter] = following[now]
        while used > budget:
            worst = max(held, key=lambda each: (due[each] - now) * (held[each] if weigh else 1))
            used -= held.pop(worst)
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=8000)
    parser.add_argument("--budgets", type=int, nargs="*", default=[2048, 4096, 8192, 32768], help="in MB")
    arguments = parser.parse_args()
    print("| jobs of | budget | LRU | LFU | ours | knowing the future | gap from LRU closed |")
    print("|---|---|---|---|---|---|---|")
    closed = []
    for service in Service:
        trace = list(islice(jobs(service, Form.REPEAT), arguments.jobs))
        for budget in arguments.budgets:
            old, rare, new, best = (rule(trace, budget) / len(trace) for rule in (lru, lfu, ours, knowing))
            closed.append((new - old) / (best - old))
            print(
                f"| {service} | {budget} MB | {old:.3f} | {rare:.3f} | {new:.3f} | {best:.3f} "
                f"| {closed[-1]:.0%} |"
            )
    print(f"\ngap closed, mean of all: {sum(closed) / len(closed):.0%} (goal 40 %)")


if __name__ == "__main__":
    main()
