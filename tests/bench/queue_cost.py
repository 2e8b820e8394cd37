"""What the queue costs for each job, on a real Valkey.

    python tests/bench/queue_cost.py

- steps: round trips and the server's CPU time of each thing that a router and a worker do for a job, beside
  a bare SET; and the commands that a whole worker process sends for a job;
- rate: jobs per second of the server's CPU time, beside bare lists that neither choose nor recover.

CPU times are the server's own, so that they hardly depend on what else the machine does.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from redis.asyncio import Connection, Redis

from shared.jobs import Job, WorkerId
from shared.queue.keys import BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import Lease, Progress, QueueSettings
from shared.redis_client import command_client
from shared.refs import RepoId, base_tag
from shared.results.redis_store import RedisResults
from tests.bench.queue_stage import (
    DEEP,
    ROOT,
    micro,
    null_worker,
    on_a_server,
    server_cpu,
    tokens,
    varied,
)
from tests.builders import BASE, WORKER, a_job, a_result

JOBS_OF_A_STEP = 500
IMAGE = bytes(1024)

BATCH = 10
WORKER_SECONDS = 1.0
PATIENCE = 60.0

PROCESSES, TASKS, RATE_SECONDS, RATE_ROUNDS = 2, 8, 4.0, 2
ARMS = {"ours": "queue (bar: 2,000)", "lists": "bare lists"}
LIST, ACTIVE = "bench:jobs", "bench:active"


class CountedConnection(Connection):
    """Counts what it sends: a command or a pipeline is one round trip."""

    sent: ClassVar[int] = 0

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        CountedConnection.sent += 1
        await super().send_packed_command(command, check_health)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one call of a kind cost."""

    round_trips: float
    cpu: float


async def measure_steps(url: str) -> None:
    """Do each step for some hundred jobs, and print what one costs."""
    async with command_client(url) as redis, command_client(url) as observer:
        redis.connection_pool.connection_class = CountedConnection
        queue = JobQueue(redis, base_tag(BASE), QueueSettings())
        results = RedisResults(redis, ttl=600, most_bytes=1 << 30)
        jobs = [varied(BASE, number) for number in range(JOBS_OF_A_STEP)]
        leases: list[Lease] = []

        async def claim(_: Job) -> None:
            leases.extend((await queue.claim(WORKER, next(tokens))).leases)

        async def cost(step: Callable[[Any], Awaitable[object]], items: Sequence[object]) -> Cost:
            await redis.ping()  # connected
            sent, before = CountedConnection.sent, await server_cpu(observer)
            for item in items:
                await step(item)
            cpu = await server_cpu(observer) - before
            return Cost(round_trips=(CountedConnection.sent - sent) / len(items), cpu=cpu / len(items))

        # the server knows the scripts now
        await queue.enqueue(jobs[0])
        (lease,) = (await queue.claim(WORKER, next(tokens))).leases
        await queue.heartbeat(WORKER, [Progress(lease=lease, step=1, total=4)])
        await queue.complete(lease, a_result())
        await redis.delete(BaseKeys(base_tag(BASE)).job(jobs[0].id))
        bare = await cost(lambda job: redis.set("bench:bare", job.id * 8), jobs)
        costs = {
            "enqueue": await cost(queue.enqueue, jobs),
            "claim": await cost(claim, jobs),
            "heartbeat": await cost(
                lambda lease: queue.heartbeat(WORKER, [Progress(lease=lease, step=1, total=4)]), leases
            ),
            "complete": await cost(
                lambda lease: queue.complete(lease, a_result(adapters=lease.job.adapters)), leases
            ),
            "read record": await cost(lambda job: queue.records([job.id]), jobs),
            "write image": await cost(lambda lease: results.put(lease, IMAGE), leases),
            "read image": await cost(lambda lease: results.get(f"{lease.job.id}-{lease.fence}"), leases),
        }
        await redis.flushall(asynchronous=True)
    report_steps(costs, bare)
    await measure_worker(url)


def report_steps(costs: dict[str, Cost], bare: Cost) -> None:
    """Print a row for each step, and the sums."""
    print(f"{'step':>24}{'round trips':>14}{'server CPU':>12}{'of a SET':>10}")
    queue_steps = ("enqueue", "claim", "complete")
    job_steps = (*queue_steps, "read record", "write image", "read image")
    sums = {"queue, a job (bar: 3)": queue_steps, "all, but for heartbeats": job_steps}
    rows = {"bare SET": bare} | costs
    for name, steps in sums.items():
        rows[name] = Cost(
            round_trips=sum(costs[step].round_trips for step in steps),
            cpu=sum(costs[step].cpu for step in steps),
        )
    for name, cost in rows.items():
        print(f"{name:>24}{cost.round_trips:>14.2f}{micro(cost.cpu):>12}{cost.cpu / bare.cpu:>9.1f}x")


async def measure_worker(url: str) -> None:
    """Print what a whole worker process with a backlog sends for a job."""
    base, backlog = RepoId("bench/worker"), 2000
    async with command_client(url) as redis:
        queue = JobQueue(redis, base_tag(base), DEEP)
        for _ in range(backlog):
            await queue.enqueue(a_job(base=base, adapters=()))
        with null_worker(url, base, "--step-seconds", "0"):
            await running(queue)
            reads, before, began = await reads_of(redis), await queue.depth(), time.monotonic()
            await asyncio.sleep(WORKER_SECONDS)
            took, after, reads = time.monotonic() - began, await queue.depth(), await reads_of(redis) - reads
        await redis.flushall(asynchronous=True)
    jobs = before[0] - after[0]
    own = 3  # the two looks at the depth, the second one at the reads
    print(f"whole worker process: {(reads - own) / jobs:.2f} round trips a job, {jobs / took:.0f} jobs/s")


async def running(queue: JobQueue) -> None:
    """Return once a worker is well under way."""
    waiting, _ = await queue.depth()
    async with asyncio.timeout(PATIENCE):
        while (await queue.depth())[0] > waiting - BATCH:  # noqa: ASYNC110 - another process takes them
            await asyncio.sleep(0.01)


async def reads_of(redis: Redis) -> int:
    """Return how often the server has read from a connection: once for what is sent together."""
    return int((await redis.info("stats"))["total_reads_processed"])


async def measure_rate(url: str) -> None:
    """Let both arms run in turns, and print jobs per second of the server's CPU."""
    jobs, cpu = dict.fromkeys(ARMS, 0), dict.fromkeys(ARMS, 0.0)
    async with command_client(url) as redis:
        for arm in list(ARMS) * RATE_ROUNDS:
            before = await server_cpu(redis)
            jobs[arm] += await run_children(url, arm)
            cpu[arm] += await server_cpu(redis) - before
            await redis.flushall(asynchronous=True)
    print(f"{'':>24}{'jobs/s':>10}{'server busy':>14}{'jobs/s per server core':>26}")
    seconds = RATE_ROUNDS * RATE_SECONDS
    for arm, name in ARMS.items():
        rate, busy = jobs[arm] / seconds, cpu[arm] / seconds
        print(f"{name:>24}{rate:>10.0f}{busy:>14.0%}{jobs[arm] / cpu[arm]:>26,.0f}")
    ratio = jobs["ours"] / cpu["ours"] / (jobs["lists"] / cpu["lists"])
    print(f"{'ratio':>24}{'':>24}{ratio:>25.2f}x")


async def run_children(url: str, arm: str) -> int:
    """Return the jobs that some processes of workers did."""
    command = [sys.executable, __file__, "--role", arm]
    children = [
        await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env={**os.environ, "REDIS_URL": url}, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(PROCESSES)
    ]
    said = [(await child.communicate())[0] for child in children]
    return sum(int(output) for output in said)


async def work(url: str, arm: str) -> None:
    """Be one process of workers: print how many jobs it did."""
    until = time.monotonic() + RATE_SECONDS
    async with command_client(url) as redis:
        each = cycles_of_ours if arm == "ours" else cycles_of_lists
        print(sum(await asyncio.gather(*(each(redis, number, until) for number in range(TASKS)))))


async def cycles_of_ours(redis: Redis, number: int, until: float) -> int:
    """Enqueue, claim and complete."""
    queue, done = JobQueue(redis, base_tag(BASE), QueueSettings()), 0
    worker = WorkerId(f"{os.getpid()}-{number}")
    while time.monotonic() < until:
        await queue.enqueue(varied(BASE, done))
        for lease in (await queue.claim(worker, str(done))).leases:
            await queue.complete(lease, a_result(adapters=lease.job.adapters))
            done += 1
    return done


async def cycles_of_lists(redis: Redis, number: int, until: float) -> int:
    """Push, move and forget, with a record of the end."""
    job, done = bytes(500), 0
    while time.monotonic() < until:
        await redis.rpush(LIST, b"%d-%d " % (number, done) + job)
        taken = await redis.lmove(LIST, ACTIVE, "LEFT", "RIGHT")
        pipeline: Any = redis.pipeline(transaction=True)
        await pipeline.lrem(ACTIVE, 1, taken).set(f"{LIST}:{number}-{done}", job, ex=600).execute()
        done += 1
    return done


async def measure(url: str) -> None:
    """Do both."""
    await measure_steps(url)
    await measure_rate(url)


def main() -> None:
    """Be the benchmark, or one of its processes."""
    parser = argparse.ArgumentParser(prog="python tests/bench/queue_cost.py")
    parser.add_argument("--role", choices=list(ARMS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        asyncio.run(work(os.environ["REDIS_URL"], given.role))
    else:
        on_a_server(measure)


if __name__ == "__main__":
    main()
