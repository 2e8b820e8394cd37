"""Whether claims and completes get slower with the jobs that wait, on a real Valkey.

    python tests/bench/queue_depth.py [--large 1000000] [--rounds 100]

Claim and complete with 100, 10,000 and `--large` waiting jobs, in turns, on one server. CPU times are the
server's own, so that they hardly depend on what else the machine does.
"""

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from redis.asyncio import Redis

from shared.jobs import new_job_id
from shared.queue.queue import JobQueue
from shared.redis_client import blocking_client, command_client
from shared.refs import RepoId, base_tag
from tests.bench.queue_stage import (
    ADAPTERS,
    DEEP,
    HOT,
    TENANTS,
    micro,
    on_a_server,
    server_cpu,
    tokens,
    varied,
)
from tests.builders import WORKER, a_result

if TYPE_CHECKING:
    from shared.queue.terms import Lease

DEPTHS = (100, 10_000)
BATCH = 10
CHUNK = 1000


@dataclass(slots=True)
class Depth:
    """A queue with so many waiting jobs, and what its calls took: seconds of clock, and of server CPU."""

    waiting: int
    base: RepoId
    queue: JobQueue
    claim: list[float] = field(default_factory=list)
    claim_cpu: list[float] = field(default_factory=list)
    complete: list[float] = field(default_factory=list)
    complete_cpu: list[float] = field(default_factory=list)


async def measure_depths(url: str, large: int, rounds: int) -> None:
    """Claim and complete at each depth in turns, every job replaced at once."""
    async with command_client(url) as redis:
        depths = []
        for waiting in (*DEPTHS, large):
            base = RepoId(f"bench/depth-{waiting}")
            queue = JobQueue(redis, base_tag(base), DEEP)
            began = time.monotonic()
            await fill(url, queue, base, waiting)
            if waiting == large:
                memory = (await redis.info("memory"))["used_memory"] / waiting / 1024
                took = time.monotonic() - began
                print(f"filled {waiting:,} in {took:.0f} s, {memory:.1f} KiB for each job")
            depths.append(Depth(waiting, base, queue))
        for number in range(rounds):
            for depth in depths if number % 2 else reversed(depths):
                await cycle(redis, depth)
        await redis.flushall(asynchronous=True)
    report_depths(depths)


async def fill(url: str, queue: JobQueue, base: RepoId, waiting: int) -> None:
    """Enqueue by the true script, but write its commands from patterns and read no replies."""
    await queue.enqueue(varied(base, 0))  # the server knows the script now
    async with blocking_client(url, 600.0) as redis:
        pool: Any = redis.connection_pool
        connection = await pool.get_connection()
        patterns = [await pattern(connection, base, kind) for kind in range(ADAPTERS * TENANTS)]
        await connection.send_command("CLIENT", "REPLY", "OFF")
        for start in range(1, waiting, CHUNK):
            commands = [
                packed.replace(old, new_job_id(base).encode())
                for packed, old in (
                    patterns[number % len(patterns)] for number in range(start, min(start + CHUNK, waiting))
                )
            ]
            # no health check, which would wait for a reply
            await connection.send_packed_command([b"".join(commands)], check_health=False)
        await connection.send_command("CLIENT", "REPLY", "ON", check_health=False)
        await connection.read_response()
        await pool.release(connection)
    if await queue.depth() != (waiting, 0):
        raise RuntimeError(f"{await queue.depth()} jobs instead of {waiting}")


async def pattern(connection: Any, base: RepoId, kind: int) -> tuple[bytes, bytes]:
    """Return the enqueue of a job as it is sent, and the id in it."""
    job, recorder = varied(base, kind), Recorder()
    await JobQueue(cast("Redis", recorder), base_tag(base), DEEP).enqueue(job)
    return b"".join(connection.pack_command("EVALSHA", *recorder.sent)), job.id.encode()


class Recorder:
    """In the place of a client: keeps what would be sent."""

    sent: tuple[Any, ...] = ()

    async def evalsha(self, *arguments: Any) -> list[bytes]:
        self.sent = arguments
        return [b"added", b"", b"0"]


async def cycle(redis: Redis, depth: Depth) -> None:
    """Claim some jobs, complete and replace them."""
    hot = [varied(depth.base, kind).affinity for kind in range(HOT)]
    leases: list[Lease] = []
    before = await server_cpu(redis)
    for _ in range(BATCH):
        began = time.perf_counter()
        claim = await depth.queue.claim(WORKER, next(tokens), hot=hot)
        depth.claim.append(time.perf_counter() - began)
        leases += claim.leases
    between = await server_cpu(redis)
    for lease in leases:
        began = time.perf_counter()
        await depth.queue.complete(lease, a_result(adapters=lease.job.adapters))
        depth.complete.append(time.perf_counter() - began)
    depth.claim_cpu.append((between - before) / BATCH)
    depth.complete_cpu.append((await server_cpu(redis) - between) / BATCH)
    for _ in leases:
        await depth.queue.enqueue(varied(depth.base, random.randrange(ADAPTERS * TENANTS)))  # noqa: S311


def report_depths(depths: Sequence[Depth]) -> None:
    """Print a row for each depth, and the deepest beside the first."""
    print(f"{'waiting jobs':>24}{'claim p50':>12}{'p99':>12}{'CPU':>12}{'complete p50':>14}{'CPU':>12}")
    rows = [
        (
            statistics.median(depth.claim),
            statistics.quantiles(depth.claim, n=100)[-1],
            statistics.median(depth.claim_cpu),
            statistics.median(depth.complete),
            statistics.median(depth.complete_cpu),
        )
        for depth in depths
    ]
    for depth, row in zip(depths, rows, strict=True):
        claim, p99, cpu, complete, complete_cpu = map(micro, row)
        print(f"{depth.waiting:>24,}{claim:>12}{p99:>12}{cpu:>12}{complete:>14}{complete_cpu:>12}")
    claim, p99, cpu, complete, complete_cpu = (
        f"{deep / shallow:.2f}x" for deep, shallow in zip(rows[-1], rows[0], strict=True)
    )
    print(f"{'ratio (bar: 1.25x)':>24}{claim:>12}{p99:>12}{cpu:>12}{complete:>14}{complete_cpu:>12}")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python tests/bench/queue_depth.py")
    parser.add_argument("--large", type=int, default=1_000_000, help="jobs of the deepest queue")
    parser.add_argument("--rounds", type=int, default=100, help="rounds through the depths")
    given = parser.parse_args()
    on_a_server(lambda url: measure_depths(url, given.large, given.rounds))


if __name__ == "__main__":
    main()
