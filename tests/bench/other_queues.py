"""Other queues for Redis beside ours: the same jobs that do nothing, and the same death of a worker.

    python tests/bench/other_queues.py [--jobs 2000] [--cap 120] [--venvs build/other_queues]

Each library comes from `other_queues.txt` into a virtual environment of its own, because their versions of
the client exclude each other, and ours. All use the same Valkey, each a database of its own, and their
defaults. Rates are of one worker process with the jobs waiting already, or what it did in ten
seconds; recovery is the time from SIGKILL of
a worker in the middle of a job until another process, idle all along, begins with it.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
import venv
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy import embedded_valkey
from shared.queue.terms import QueueSettings
from shared.redis_client import command_client
from tests.bench.queue_stage import server_cpu
from tests.bench.recovery import recoveries
from tests.servers import valkey

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OURS = "warmbase"
CONCURRENCY = (1, 16)
ROUNDS = 3
KILL_AFTER = 1.0
PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Other:
    """A queue, and what rules its recovery.

    Attributes:
        rule: the setting, with its default.
        attempts: what a caller has to allow for the job to run again at all; 0 for the default.
    """

    name: str
    queue: str
    rule: str
    attempts: int = 0


OTHERS = (
    Other(name="SAQ", queue="saq", rule="retries=1: one attempt, then aborted by the sweep each 60 s"),
    Other(name="SAQ, retries=3", queue="saq", rule="timeout 10 s of the job, sweep each 60 s", attempts=3),
    Other(name="arq", queue="arq", rule="job_timeout 300 s + 10 s"),
    Other(name="streaq", queue="streaq", rule="idle_timeout 60 s"),
    Other(name="taskiq-redis", queue="taskiq", rule="idle_timeout 600 s"),
)


class Environments:
    """The interpreters of the queues, made when they are missing."""

    def __init__(self, folder: Path) -> None:
        lines = (HERE / "other_queues.txt").read_text().splitlines()
        self._folder = folder
        self._wanted = dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))

    def make(self) -> None:
        for queue, wanted in self._wanted.items():
            stamp = self._folder / queue / "installed"
            if stamp.exists() and stamp.read_text() == wanted:
                continue
            venv.create(self._folder / queue, with_pip=True, clear=True)
            command = [self.python(queue), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*command, *wanted.split()], check=True)
            stamp.write_text(wanted)

    def python(self, queue: str) -> str:
        return sys.executable if queue == OURS else str(self._folder / queue / "bin" / "python")

    def says(self, queue: str) -> str:
        return self._wanted.get(queue, "this repository")


@dataclass(frozen=True, slots=True)
class Runner:
    """Starts the processes of one queue on one database."""

    environments: Environments
    queue: str
    url: str

    async def start(self, act: str, *arguments: str) -> Process:
        script = str(HERE / "other_queues_worker.py")
        command = [self.environments.python(self.queue), script, self.queue, act, *arguments]
        environment = {**os.environ, "REDIS_URL": self.url}
        return await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=PIPE)

    async def put(self, act: str, *arguments: str) -> None:
        process = await self.start(act, *arguments)
        if await process.wait():
            raise RuntimeError(f"{self.queue}: {act} failed")


def database(url: str, number: int) -> str:
    """Return the address of one of the server's databases."""
    return urlsplit(url)._replace(path=f"/{number}").geturl()


async def end(process: Process) -> None:
    """Kill a process, and wait for it."""
    if process.returncode is None:
        process.kill()
    await process.wait()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """What a run of jobs took: jobs per second, and the server's CPU seconds for one."""

    jobs: float
    cpu: float


async def rate(runner: Runner, jobs: int, concurrency: int) -> Rate:
    """Let one worker process do jobs that wait already."""
    async with command_client(runner.url) as redis:
        await redis.flushdb()
        before = await server_cpu(redis)
        await runner.put("nothing", "--jobs", str(jobs))
        worker = await runner.start("work", "--jobs", str(jobs), "--concurrency", str(concurrency))
        try:
            async with asyncio.timeout(PATIENCE):
                done, seconds = (await line_of(worker)).split()
        finally:
            await end(worker)
        cpu = await server_cpu(redis) - before
        await redis.flushdb()
    return Rate(jobs=int(done) / float(seconds), cpu=cpu / int(done))


async def line_of(worker: Process) -> bytes:
    """Return what a worker prints next."""
    assert worker.stdout
    line = await worker.stdout.readline()
    if not line:
        raise RuntimeError(f"the worker ended with {await worker.wait()}")
    return line


async def recovery(runner: Runner, attempts: int, cap: float) -> float | None:
    """Kill a worker that runs a job; return the seconds until the other one begins with it, if it does."""
    workers = [await runner.start("work") for _ in range(2)]
    try:
        await asyncio.sleep(3 * KILL_AFTER)  # both are there
        await runner.put("hold", "--attempts", str(attempts))
        lines = [asyncio.create_task(line_of(worker)) for worker in workers]
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait(lines, return_when=asyncio.FIRST_COMPLETED)
        holder = 0 if lines[0].done() else 1
        await asyncio.sleep(KILL_AFTER)
        killed = time.monotonic()
        await end(workers[holder])
        try:
            async with asyncio.timeout(cap):
                await lines[1 - holder]
        except TimeoutError:
            return None
        return time.monotonic() - killed
    finally:
        for worker in workers:
            await end(worker)


async def measure(url: str, given: argparse.Namespace) -> None:
    """Measure all queues and print the tables."""
    environments = Environments(given.venvs)
    environments.make()
    queues = {OURS: "Warmbase"} | {each.queue: each.name for each in reversed(OTHERS)}
    queues = {queue: queues[queue] for queue in (OURS, *dict.fromkeys(each.queue for each in OTHERS))}
    for queue, name in queues.items():
        print(f"{name:>16}: {environments.says(queue)}")
    if given.only in {None, "rate"}:
        await compare_rates(url, environments, queues, given.jobs)
    if given.only in {None, "recovery"}:
        await compare_recoveries(url, environments, given.cap)


async def compare_rates(url: str, environments: Environments, queues: dict[str, str], jobs: int) -> None:
    """Let all queues do the jobs in turns."""
    found: dict[tuple[str, int], list[Rate]] = {}
    for _ in range(ROUNDS):
        for concurrency in CONCURRENCY:
            for queue in queues:
                each = await rate(Runner(environments, queue, url), jobs, concurrency)
                found.setdefault((queue, concurrency), []).append(each)
    titles = "".join(f"{f'jobs/s, {concurrency} at once':>22}" for concurrency in CONCURRENCY)
    print(f"\n{'':>16}{titles}{'server CPU a job':>20}")
    for queue, name in queues.items():
        rates = [statistics.median(each.jobs for each in found[queue, count]) for count in CONCURRENCY]
        cpu = statistics.median(each.cpu for each in found[queue, CONCURRENCY[-1]])
        print(f"{name:>16}{''.join(f'{each:>22,.0f}' for each in rates)}{cpu * 1e6:>17,.0f} us")


async def compare_recoveries(url: str, environments: Environments, cap: float) -> None:
    """Kill a worker of each queue, all at the same time."""
    runners = [
        Runner(environments, each.queue, database(url, number)) for number, each in enumerate(OTHERS, start=1)
    ]
    ours, *others = await asyncio.gather(
        recoveries(url, 4),
        *(recovery(runner, each.attempts, cap) for runner, each in zip(runners, OTHERS, strict=True)),
    )
    assert isinstance(ours, list)
    print(f"\n{'':>16}{'killed to running':>20}  what rules it (default)")
    rows = [
        ("Warmbase", f"{max(ours):.1f} s", f"lease {QueueSettings().lease:.0f} s; longest of {len(ours)}")
    ]
    for each, took in zip(OTHERS, others, strict=True):
        rows.append((each.name, f"> {cap:.0f} s" if took is None else f"{took:.1f} s", each.rule))
    for name, text, rule in rows:
        print(f"{name:>16}{text:>20}  {rule}")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python tests/bench/other_queues.py")
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of each run")
    parser.add_argument("--cap", type=float, default=120.0, help="seconds to wait for a recovery")
    parser.add_argument("--only", choices=["rate", "recovery"], help="one measurement")
    parser.add_argument(
        "--venvs", type=Path, default=ROOT / "build" / "other_queues", help="where to install"
    )
    given = parser.parse_args()
    server = embedded_valkey.start(valkey())
    try:
        asyncio.run(measure(server.url, given))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
