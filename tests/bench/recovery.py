"""How soon a killed worker's job runs again, with the default lease, on a real Valkey.

    python tests/bench/recovery.py [--kills 20]

From SIGKILL of a worker process in the middle of a job to the claim of that job by another process.
"""

import argparse
import asyncio
import random
import statistics
import subprocess
import time
from collections.abc import Callable

from shared.jobs import JobId, JobRecord
from shared.pools import PoolDirectory
from shared.queue.queue import JobQueue
from shared.queue.terms import QueueSettings
from shared.redis_client import command_client
from shared.refs import RepoId, base_tag
from tests.bench.queue_stage import (
    DAY,
    Relay,
    on_a_server,
)
from tests.builders import a_job, some_params
from worker.heartbeat import BEATS_PER_LEASE

LANES = 4
ENDLESS = 1_000_000
PATIENCE = 60.0


async def measure_recovery(url: str, kills: int) -> None:
    """Print how long the jobs of killed workers waited."""
    took = sorted(await recoveries(url, kills))
    p99 = statistics.quantiles(took, n=100, method="inclusive")[-1]
    print(
        f"{len(took)} kills, lease {QueueSettings().lease:.0f} s: claimed elsewhere after p50 "
        f"{statistics.median(took):.2f} s, p99 {p99:.2f} s, longest {took[-1]:.2f} s (bar: 5 s)"
    )


async def recoveries(url: str, kills: int) -> list[float]:
    """Kill worker processes in the middle of jobs; return the seconds until each job was claimed again."""
    lanes = [lane(url, number, len(range(number, kills, LANES))) for number in range(LANES)]
    return [took for each in await asyncio.gather(*lanes) for took in each]


async def lane(url: str, number: int, kills: int) -> list[float]:
    """Kill one worker after the other of a base of its own; each one's job goes to the next."""
    base, took = RepoId(f"bench/lane-{number}"), []
    chance = random.Random(number)  # noqa: S311 - the same in every run
    async with command_client(url) as redis:
        queue, pools = JobQueue(redis, base_tag(base), QueueSettings()), PoolDirectory(redis)
        with Relay(url, base) as relay:
            await there(pools, base, relay.start())
            for _ in range(kills):
                job = a_job(base=base, adapters=(), params=some_params(steps=ENDLESS), timeout=DAY)
                await queue.enqueue(job)
                await until(queue, job.id, lambda record: record.progress is not None)
                await there(pools, base, relay.start())
                # anywhere between two heartbeats
                await asyncio.sleep(chance.uniform(0, QueueSettings().lease / BEATS_PER_LEASE))
                killed = time.time()
                relay.kill()
                record = await until(queue, job.id, lambda record: record.attempts == 2)
                took.append((record.started_at or 0.0) - killed)
                await queue.cancel(job.id)
                await until(queue, job.id, lambda record: record.status.is_end)
    return took


async def until(queue: JobQueue, job: JobId, holds: Callable[[JobRecord], bool]) -> JobRecord:
    """Return the job's record once it is so."""
    async with asyncio.timeout(PATIENCE):
        while True:
            (record,) = await queue.records([job])
            if record and holds(record):
                return record
            await asyncio.sleep(0.02)


async def there(pools: PoolDirectory, base: RepoId, process: subprocess.Popen[bytes]) -> None:
    """Return once the worker has announced itself."""
    async with asyncio.timeout(PATIENCE):
        while not any(  # noqa: ASYNC110 - what is awaited happens in another process
            f"-{process.pid}-" in worker.id
            for pool in await pools.live()
            if pool.base == base
            for worker in pool.workers
        ):
            await asyncio.sleep(0.05)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python tests/bench/recovery.py")
    parser.add_argument("--kills", type=int, default=20, help="workers to kill")
    given = parser.parse_args()
    on_a_server(lambda url: measure_recovery(url, given.kills))


if __name__ == "__main__":
    main()
