"""Who gets the GPU while one tenant floods the queue: the real queue and server, simulated workers.

    python tests/bench/fairness.py [--jobs 2000] [--flood 10000]

One tenant has 10,000 jobs waiting, nine others keep four waiting each. Jobs are of three sizes, drawn anew
for each, with the adapters of a trace (`workloads`, service B, repeats), so that affinity pulls where it can.
Four workers do `--jobs` of them in virtual time, as in `affinity.py`. Jain's index over the seconds that the
ten tenants were served says how equal their shares are: 1 when all got the same, 0.1 when one got everything.
Every so often an eleventh tenant sends a single job, and how many claims it waits is counted.

The arms: all jobs as one tenant's, which is first come, first served; the tenants apart; and these again with
a flood that came before the queue had measured what any job costs.
"""

import argparse
import asyncio
import heapq
import random
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from deploy import embedded_valkey
from shared.queue.queue import JobQueue
from shared.queue.terms import Enqueued
from shared.redis_client import command_client
from shared.refs import base_tag
from tests.bench.affinity import IN_MEMORY, PATIENT, STEPS, WORKERS, SimulatedWorker, job_with
from tests.bench.workloads import Form, Service, jobs
from tests.builders import BASE
from tests.servers import valkey

FLOODER, LIGHT, LONE = "flooder", tuple(f"light-{number}" for number in range(9)), "lone"
KEPT_WAITING = 4
BETWEEN_LONE_JOBS = 40
SIZES = (10, 20, 40)
SECONDS_PER_STEP = 0.1
SWAP = 0.6
MEASURED_BEFORE = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """How the queue is to see the tenants.

    Attributes:
        apart: as ten, rather than one.
        measured: it has seen jobs end before the flood.
    """

    name: str
    apart: bool
    measured: bool


ARMS = (
    Arm(name="as one tenant", apart=False, measured=True),
    Arm(name="as ten tenants", apart=True, measured=True),
    Arm(name="the same, nothing measured before", apart=True, measured=False),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What an arm gave.

    Attributes:
        seconds: how long each of the ten tenants was served.
        waits: of each of the lone tenant's jobs, the claims until its own.
        left: claims that its last job had waited when the measurement ended; None if none was left.
    """

    seconds: Sequence[float]
    waits: Sequence[int]
    left: int | None


class Bench:
    """A queue, workers that never stop, and who owns which waiting job."""

    def __init__(self, redis: Redis, arm: Arm) -> None:
        self._queue = JobQueue(redis, base_tag(BASE), PATIENT)
        self._apart = arm.apart
        self._adapters: Iterator[int] = jobs(Service.B, Form.REPEAT)
        self._chance = random.Random(1)  # noqa: S311 - the same sizes in every run
        self._workers = [SimulatedWorker(number) for number in range(WORKERS)]
        self._free = [(0.0, number) for number in range(WORKERS)]
        self._owners: dict[str, str] = {}
        self._claims = 0

    async def add(self, tenant: str) -> None:
        """Have a tenant send a job."""
        steps = self._chance.choice(SIZES)
        job = job_with(next(self._adapters), steps, tenant if self._apart else "")
        admission = await self._queue.enqueue(job)
        assert admission.outcome is Enqueued.ADDED
        self._owners[job.id] = tenant

    async def serve_one(self) -> tuple[str, float]:
        """Have the next free worker take a job; return whose it was, and its seconds."""
        now, number = heapq.heappop(self._free)
        worker = self._workers[number]
        await worker.complete(self._queue)
        self._claims += 1
        claim = await self._queue.claim(worker.id, str(self._claims), hot=worker.told(IN_MEMORY))
        (lease,) = claim.leases
        seconds = (lease.job.params.steps or STEPS) * SECONDS_PER_STEP
        swapped, _ = worker.take(lease, seconds, SWAP)
        seconds += swapped * SWAP
        heapq.heappush(self._free, (now + seconds, number))
        return self._owners.pop(lease.job.id), seconds


async def serve(redis: Redis, arm: Arm, count: int, flood: int) -> Outcome:
    """Have `count` jobs done while the flood waits."""
    await redis.flushall()
    bench = Bench(redis, arm)
    if arm.measured:
        for _ in range(MEASURED_BEFORE):
            await bench.add("earlier")
            await bench.serve_one()
    for _ in range(flood):
        await bench.add(FLOODER)
    for tenant in LIGHT * KEPT_WAITING:
        await bench.add(tenant)
    seconds: dict[str, float] = defaultdict(float)
    waits: list[int] = []
    sent: int | None = None
    for claim in range(count):
        if sent is None and claim % BETWEEN_LONE_JOBS == 0:
            await bench.add(LONE)
            sent = claim
        tenant, taken = await bench.serve_one()
        if tenant == LONE:
            assert sent is not None
            waits.append(claim - sent)
            sent = None
            continue
        seconds[tenant] += taken
        await bench.add(tenant)
    served = [seconds[tenant] for tenant in (FLOODER, *LIGHT)]
    return Outcome(seconds=served, waits=waits, left=None if sent is None else count - sent)


def jain(shares: Sequence[float]) -> float:
    """Return Jain's index: 1 for equal shares, 1 / n for all to one of n."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


async def measure(redis_url: str, count: int, flood: int) -> None:
    """Run the arms and print the table."""
    print(f"{count} jobs in each arm, {flood} of one tenant waiting")
    print(f"{'':36}{'Jain':>8}{'flooder':>10}{'others':>16}{'claims before a lone job':>28}")
    async with command_client(redis_url) as redis:
        for arm in ARMS:
            print(f"{arm.name:36}{row(await serve(redis, arm, count, flood))}")


def row(outcome: Outcome) -> str:
    """Return the figures of an arm."""
    total = sum(outcome.seconds)
    flooder, *others = (share / total for share in outcome.seconds)
    waits = (
        f"median {statistics.median(outcome.waits):.0f}, most {max(outcome.waits)}"
        if outcome.waits
        else f"more than {outcome.left}"
    )
    return f"{jain(outcome.seconds):8.3f}{flooder:10.1%}{min(others):8.1%} to {max(others):.1%}{waits:>28}"


def main() -> None:
    """Read the arguments, run, and stop the server."""
    parser = argparse.ArgumentParser(prog="python tests/bench/fairness.py")
    parser.add_argument("--jobs", type=int, default=2000, help="jobs that are done in each arm")
    parser.add_argument("--flood", type=int, default=10_000, help="jobs that one tenant has waiting")
    given = parser.parse_args()
    server = embedded_valkey.start(valkey())
    try:
        asyncio.run(measure(server.url, given.jobs, given.flood))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
