"""What affinity saves, and what it costs those who are passed: the real queue under a standing backlog.

    python tests/bench/affinity.py [--jobs 1500] [--seconds 2.0] [--swap 0.6] [--slack 64] [--service A]

Four workers keep 64 jobs waiting: a job is added for every one that is claimed. Queue, scripts and server are
the real ones; the workers are simulated. Each has one adapter in its weights and the last 16 in memory, tells
the queue of them, and takes `--seconds` for a job and `--swap` more if the adapter is another one. That is
virtual time: who claims next follows from it, nothing sleeps. The queue learns it as what the jobs cost. Its
own clock is the server's, and hardly moves meanwhile, so that the bound by age (60 s) is never reached here.

The arms, with the same jobs: first come, first served; passing without bounds; and the default bounds, for
workers that tell all they hold, and for such that tell only what is in their weights. A swap is a job with
another adapter than the one that its worker drew with before, a load one that was not in its memory. How
often a job was passed is counted afterwards, from the order in which the jobs came and went: all are one
tenant's, so that coming first is the fair order. The wait is of virtual time; as the backlog stays the same
however fast the workers are, what they save shortens it for both ends alike.
"""

import argparse
import asyncio
import heapq
import statistics
from bisect import bisect, insort
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from redis.asyncio import Redis

from deploy import embedded_valkey
from shared.jobs import Job, JobId, JobResult, WorkerId
from shared.queue.queue import JobQueue
from shared.queue.terms import Enqueued, Lease, QueueSettings
from shared.redis_client import command_client
from shared.refs import RepoId, base_tag
from tests.bench.workloads import Form, Service, jobs
from tests.builders import BASE, a_job, a_result, an_adapter, some_params, some_timings
from tests.servers import valkey

WORKERS = 4
BACKLOG = 64
IN_MEMORY = 16
WARM_UP = 100
SIDE, STEPS = 1024, 20

UNBOUNDED = 1_000_000
FOR_EVER = 1_000_000.0
"""Seconds; neither a timeout nor a bound by age comes to pass within a run."""

PATIENT = QueueSettings(lease=FOR_EVER, max_waiting=UNBOUNDED, max_waiting_per_tenant=UNBOUNDED)
"""What every arm has in common: nothing is refused, and nothing is lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way to choose the next job.

    Attributes:
        told: how many of the adapters that it holds a worker tells the queue.
    """

    name: str
    settings: QueueSettings
    told: int


FIRST_COME = Arm(
    name="first come, first served", settings=replace(PATIENT, slack=0.0, max_overtakes=0), told=0
)
NO_BOUNDS = Arm(
    name="no bounds",
    settings=replace(PATIENT, slack=FOR_EVER, max_overtakes=UNBOUNDED, max_age=FOR_EVER),
    told=IN_MEMORY,
)


def arms(slack: float) -> Sequence[Arm]:
    """Return the arms, the reference first. Those with bounds may pass the work of so many average jobs."""
    bounded = replace(PATIENT, slack=slack)
    return (
        FIRST_COME,
        NO_BOUNDS,
        Arm(name="bounded", settings=bounded, told=IN_MEMORY),
        Arm(name="bounded, weights only", settings=bounded, told=1),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Virtual seconds of a job whose adapter is in the weights, and those of bringing it there."""

    job: float
    swap: float


class SimulatedWorker:
    """Draws nothing, but knows which adapters it would hold: the last ones, the one in the weights first."""

    def __init__(self, number: int) -> None:
        self.id = WorkerId(f"worker-{number}")
        self._held: OrderedDict[str, None] = OrderedDict()
        self._ran: tuple[Lease, JobResult] | None = None

    def told(self, most: int) -> tuple[str, ...]:
        """Return the affinities of what it holds, at most so many."""
        return tuple(reversed(self._held))[:most]

    def take(self, lease: Lease, seconds: float, swap: float) -> tuple[bool, bool]:
        """Do a job; return whether its adapter was not in the weights, and whether not even in memory."""
        affinity = lease.job.affinity
        swapped, loaded = self.told(1) != (affinity,), affinity not in self._held
        self._held[affinity] = None
        self._held.move_to_end(affinity)
        if len(self._held) > IN_MEMORY:
            self._held.popitem(last=False)
        params = lease.job.params
        result = a_result(
            steps=params.steps,
            width=params.width,
            height=params.height,
            timings=some_timings(swap=swapped * swap, inference=seconds),
        )
        self._ran = lease, result
        return swapped, loaded

    async def complete(self, queue: JobQueue) -> None:
        """Tell the queue of the last job, if there was one."""
        if self._ran:
            assert await queue.complete(*self._ran)
            self._ran = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A job that was claimed.

    Attributes:
        came: how many jobs had come before it.
        waited: virtual seconds.
        swapped: its adapter was not in the worker's weights.
        loaded: nor in its memory.
    """

    came: int
    waited: float
    swapped: bool
    loaded: bool


async def serve(redis: Redis, arm: Arm, adapters: Iterator[int], costs: Costs, count: int) -> list[Served]:
    """Have the workers do `count` jobs; return these in the order in which they were claimed."""
    await redis.flushall()
    queue = JobQueue(redis, base_tag(BASE), arm.settings)
    workers = [SimulatedWorker(number) for number in range(WORKERS)]
    free = [(0.0, number) for number in range(WORKERS)]
    waiting: dict[JobId, tuple[int, float]] = {}
    served: list[Served] = []
    came = 0
    while len(served) < count:
        now, number = heapq.heappop(free)
        worker = workers[number]
        await worker.complete(queue)
        while len(waiting) < BACKLOG:
            job = job_with(next(adapters))
            admission = await queue.enqueue(job)
            assert admission.outcome is Enqueued.ADDED
            waiting[job.id] = came, now
            came += 1
        claim = await queue.claim(worker.id, str(len(served)), hot=worker.told(arm.told))
        (lease,) = claim.leases
        place, since = waiting.pop(lease.job.id)
        swapped, loaded = worker.take(lease, costs.job, costs.swap)
        served.append(Served(came=place, waited=now - since, swapped=swapped, loaded=loaded))
        heapq.heappush(free, (now + costs.job + swapped * costs.swap, number))
    return served


def job_with(adapter: int, steps: int = STEPS, tenant: str = "") -> Job:
    """Return a fresh job with the adapter of this rank."""
    return a_job(
        adapters=(an_adapter(repo=RepoId(f"someone/adapter-{adapter}")),),
        params=some_params(steps=steps, width=SIDE, height=SIDE),
        timeout=FOR_EVER,
        tenant=tenant,
    )


def most_overtaken(order: Sequence[int]) -> int:
    """Return how often the job was passed that was passed most, one that still waits included.

    Args:
        order: of the jobs that were claimed, how many had come before each; in the order of the claims.
    """
    most = 0
    claimed: list[int] = []
    for came in order:
        most = max(most, len(claimed) - bisect(claimed, came))
        insort(claimed, came)
    left = set(range(claimed[-1])).difference(claimed)
    return max([most, *(len(claimed) - bisect(claimed, came) for came in left)])


def longest_wait(order: Sequence[int]) -> int:
    """Return the most claims between a job's coming and its own, one that still waits included."""
    claimed = {came: claim for claim, came in enumerate(order)}
    # One comes for each that is claimed, after those that are there to begin with.
    return max(claimed.get(came, len(order)) - max(0, came - BACKLOG + 1) for came in range(len(order)))


async def measure(
    redis_url: str, services: Sequence[Service], costs: Costs, slack: float, count: int
) -> None:
    """Run all arms on all workloads and print the table."""
    print(f"{count} jobs in each arm, {costs.job} s each and {costs.swap} s for a swap; slack {slack:g} jobs")
    print(f"{'':42}{'swaps':>7}{'':>7}{'loads':>7}{'most':>10}{'longest wait':>14}{'p99 wait':>10}")
    print(f"{'':42}{'per job':>7}{'ratio':>7}{'per job':>9}{'passed':>8}{'in jobs':>14}{'ratio':>10}")
    async with command_client(redis_url) as redis:
        for service, form in product(services, Form):
            rows = {
                arm.name: await serve(redis, arm, jobs(service, form), costs, count) for arm in arms(slack)
            }
            for name, served in rows.items():
                print(
                    f"{service} {form:12} {name:27}{row(served, reference=rows[FIRST_COME.name])}", flush=True
                )


def row(served: Sequence[Served], reference: Sequence[Served]) -> str:
    """Return the figures of an arm beside those of the reference."""
    order = [each.came for each in served]
    swaps, usual = (statistics.mean(each.swapped for each in arm[WARM_UP:]) for arm in (served, reference))
    loads = statistics.mean(each.loaded for each in served[WARM_UP:])
    late, usually = (
        statistics.quantiles([each.waited for each in arm[WARM_UP:]], n=100)[-1]
        for arm in (served, reference)
    )
    return (
        f"{swaps:7.2f}{swaps / usual:7.2f}{loads:9.2f}"
        f"{most_overtaken(order):8}{longest_wait(order):14}{late / usually:10.2f}"
    )


def main() -> None:
    """Read the arguments, run, and stop the server."""
    parser = argparse.ArgumentParser(prog="python tests/bench/affinity.py")
    parser.add_argument("--jobs", type=int, default=1500, help="jobs of each arm and workload")
    parser.add_argument("--seconds", type=float, default=2.0, help="virtual seconds of a job")
    parser.add_argument("--swap", type=float, default=0.6, help="virtual seconds of a swap")
    parser.add_argument("--slack", type=float, default=PATIENT.slack, help="average jobs to pass at most")
    parser.add_argument("--service", type=Service, choices=list(Service), help="one of the two services")
    given = parser.parse_args()
    services = [given.service] if given.service else list(Service)
    server = embedded_valkey.start(valkey())
    costs = Costs(job=given.seconds, swap=given.swap)
    try:
        asyncio.run(measure(server.url, services, costs, given.slack, given.jobs))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
