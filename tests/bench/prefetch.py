"""What changing adapters costs a worker that is told what comes next, and who waits for a slow download.

    python tests/bench/prefetch.py [churn] [blocking] [catalogue] [--rounds 6] [--adapters 64] [--ram-mib 100]

One whole worker, a real Valkey, and the local Hub in a process of its own; all share the machine.

- `churn`: the demo's base, eight steps. The arms, in turn: A, A, A... queued, and A, B, A, B... queued,
  first come, first served. The throughput of the second is the ratio; the gap is from the end of one image to
  the beginning of the next one's swap, on the compute thread.
- `blocking`: a null engine, half of whose time jobs of known adapters take, which come at random. The arms,
  in turn, with the same jobs at the same times: these alone, and beside them a job whose download takes five
  seconds and one whose download fails for ever. The ratio is that of the p99 wait of all the other jobs.
- `catalogue`: many adapters, all on disk, each for one job of eight steps, through a RAM budget that holds a
  quarter of them, or what is given. The arms, eight jobs in turn: all of one adapter, which is in the weights
  before either begins, and each of another one. Memory is that of this process, less what it had after the
  first image.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

import psutil
import torch

from shared.refs import AdapterRef
from tests import adapter_files as files
from tests.bench.one_worker import OneWorker, a_job_of, one_worker
from tests.bench.swap_bases import HUB, demo_engine
from tests.bench.swap_figures import quieten
from tests.builders import BASE
from tests.null_engine import NullEngine
from worker.engine.diffusers_engine import DiffusersEngine

PARTS = ("churn", "blocking", "catalogue")
JOBS, STEPS = 8, 8
FILE = "lora.safetensors"
KNOWN, OTHERS, SPACING = 10, 200, 0.06
STEP_SECONDS, IMAGE_STEPS = 0.005, 6
SLOW_SECONDS, SLOW_BYTES = 5, 500_000
BUDGET_SHARE, MEMORY_READINGS = 4, 16
RANKS = (16, 32, 64, 128)
MIB = 1 << 20


async def churn(rounds: int) -> None:
    arguments = argparse.Namespace(device="cpu", base=HUB / "shapes-xl")
    async with one_worker(demo_engine(arguments), HUB.parent) as worker:
        one = await worker.pinned("warmbase/outline", "pytorch_lora_weights.safetensors")
        other = await worker.pinned("warmbase/stripes", "stripes_v2.safetensors")
        arms = {"A,A,A": [[one]] * JOBS, "A,B,A,B": [[one], [other]] * (JOBS // 2)}
        await worker.run(arms["A,B,A,B"], "warm-up", steps=STEPS)
        seconds: dict[str, list[float]] = {arm: [] for arm in arms}
        busy: dict[str, list[float]] = {arm: [] for arm in arms}
        gaps: dict[str, list[float]] = {arm: [] for arm in arms}
        for number in range(rounds):
            for arm, adapters in arms.items():
                started = time.process_time()
                prompts = await worker.run(adapters, f"{arm} {number}", steps=STEPS)
                busy[arm].append(time.process_time() - started)
                seconds[arm].append(span(worker, prompts))
                gaps[arm] += worker.engine.gaps(prompts)
    print(f"\nchurn: {JOBS} jobs queued, {STEPS} steps, {rounds} rounds")
    for arm, values in seconds.items():
        print(
            f"  {arm:8} median {statistics.median(values) / JOBS * 1e3:8.1f} ms a job; gap median "
            f"{statistics.median(gaps[arm]) * 1e3:.2f} ms, p99 {p99(gaps[arm]) * 1e3:.2f} ms"
        )
    print(f"  throughput of A,B,A,B / A,A,A   {ratio_of(seconds):.3f}   (bar 0.95)")
    print(f"  the same in CPU seconds         {ratio_of(busy):.3f}   (says more on a machine that is shared)")


def ratio_of(arms: Mapping[str, Sequence[float]]) -> float:
    """Return the median over the rounds of first arm / second arm: neighbours in time saw the same load."""
    first, second = arms.values()
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


async def blocking(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(KNOWN):
            write(root, f"bench/known-{number}", b"%d" % number * 1000)
        for number in range(rounds):
            for kind in ("slow", "failing"):
                write(root, f"bench/{kind}-{number}", f"{kind} {number}".encode().ljust(SLOW_BYTES))
        async with one_worker(NullEngine(BASE, step_seconds=STEP_SECONDS, steps=IMAGE_STEPS), root) as worker:
            known = [await worker.pinned(f"bench/known-{number}", FILE) for number in range(KNOWN)]
            await worker.run([[ref] for ref in known], "warm-up")
            bad = [
                [await worker.pinned(f"bench/{kind}-{n}", FILE) for kind in ("slow", "failing")]
                for n in range(rounds)
            ]
            await worker.faults(
                {"path": "*/slow-*", "method": "GET", "bytes_per_second": SLOW_BYTES // SLOW_SECONDS},
                {"path": "*/failing-*", "status": 500},
            )
            waits: dict[str, list[float]] = {"without them": [], "with them": []}
            for number in range(rounds):
                times = arrivals(number)
                begun = times[OTHERS // 10]
                # One job more here too: that of the slow download is drawn in the end, and takes its time.
                extra = [(begun + SLOW_SECONDS, known[0])]
                waits["without them"] += await under_load(worker, known, times, extra, f"without {number}")
                extra = [(begun, ref) for ref in bad[number]]
                waits["with them"] += await under_load(worker, known, times, extra, f"with {number}")
    print(
        f"\nblocking: {OTHERS} other jobs, at random, one every {SPACING * 1e3:.0f} ms on average, of "
        f"{STEP_SECONDS * IMAGE_STEPS * 1e3:.0f} ms each; {rounds} rounds"
    )
    for arm, seen in waits.items():
        print(
            f"  {arm:13} wait: median {statistics.median(seen) * 1e3:7.1f} ms, p99 {p99(seen) * 1e3:7.1f} ms"
        )
    without, with_them = waits.values()
    print(f"  ratio of the p99                {p99(with_them) / p99(without):.3f}   (bar 1.05)")


def arrivals(number: int) -> list[float]:
    """Return the seconds at which the other jobs of a round come."""
    gaps = random.Random(number)  # noqa: S311 - a load, no secret
    return list(accumulate(gaps.expovariate(1 / SPACING) for _ in range(OTHERS)))


async def under_load(
    worker: OneWorker,
    known: Sequence[AdapterRef],
    times: Sequence[float],
    extra: Sequence[tuple[float, AdapterRef]],
    name: str,
) -> list[float]:
    """Send a job of a known adapter at each of the times, and the extra ones; return the former's waits."""
    others = [(at, f"{name} {number}", known[number % KNOWN]) for number, at in enumerate(times)]
    more = [(at, f"{name} extra {number}", ref) for number, (at, ref) in enumerate(extra)]
    came: dict[str, float] = {}
    start = time.monotonic()
    for at, prompt, ref in sorted(others + more, key=itemgetter(0)):
        await asyncio.sleep(start + at - time.monotonic())
        await worker.queue.enqueue(a_job_of([ref], prompt))
        came[prompt] = time.monotonic()
    prompts = [prompt for _, prompt, _ in others]
    await worker.drawn(prompts)
    return [worker.engine.began[prompt] - came[prompt] for prompt in prompts]


async def catalogue(adapters: int, ram_mib: int | None) -> None:
    engine = demo_engine(argparse.Namespace(device="cpu", base=HUB / "shapes-xl"))
    with tempfile.TemporaryDirectory() as folder:
        total = write_catalogue(Path(folder), engine, adapters)
        budget = ram_mib * MIB if ram_mib else total // BUDGET_SHARE
        async with one_worker(engine, Path(folder), ram_budget=budget) as worker:
            refs = [await worker.pinned(f"bench/a-{number}", FILE) for number in range(adapters)]
            await worker.run([[refs[0]]] * 2, "first", steps=STEPS)
            process = psutil.Process()
            bare = process.memory_info().rss
            # Downloads are not what is measured: afterwards all lie on disk, and RAM is full.
            await worker.run([[ref] for ref in refs], "warm-up", steps=1)
            wall: dict[str, list[float]] = {"one": [], "all": []}
            busy: dict[str, list[float]] = {"one": [], "all": []}
            resident = [process.memory_info().rss]
            # Arms of a minute each would compare the machine with itself: its speed wanders within that time.
            for first in range(0, adapters - JOBS + 1, JOBS):
                part = refs[first : first + JOBS]
                for arm, each in (("one", refs[:1] * JOBS), ("all", part)):
                    await worker.run([refs[:1]], f"before {arm} {first}", steps=1)
                    started = time.process_time()
                    prompts = await worker.run([[ref] for ref in each], f"{arm} {first}", steps=STEPS)
                    busy[arm].append(time.process_time() - started)
                    wall[arm].append(span(worker, prompts))
                resident.append(process.memory_info().rss)
    print(f"\ncatalogue: {adapters} adapters, {total / MIB:.0f} MiB, through {budget / MIB:.0f} MiB of RAM")
    for arm, values in wall.items():
        print(f"  {arm}                             {statistics.median(values) / JOBS * 1e3:.1f} ms a job")
    print(f"  throughput / one adapter        {ratio_of(wall):.3f}   (bar 0.95)")
    print(f"  the same in CPU seconds         {ratio_of(busy):.3f}")
    shown = resident[:: max(1, len(resident) // MEMORY_READINGS)]
    print("  memory in between, MiB         ", *(f"{(each - bare) / MIB:.0f}" for each in shown))
    print(f"  most of it / budget             {(max(resident) - bare) / budget:.3f}   (bar 1.05)")


def write_catalogue(root: Path, engine: DiffusersEngine, adapters: int) -> int:
    """Write that many repositories with an adapter of the demo's base each; return the bytes of all."""
    targets = files.linears(engine._pipeline, "unet")
    for number in range(adapters):
        rank = RANKS[number % len(RANKS)]
        layers = files.random_layers(
            engine._pipeline, targets, rank=lambda _, rank=rank: rank, seed=number, size=0.01
        )
        path = root / f"bench/a-{number}" / FILE
        path.parent.mkdir(parents=True)
        files.write(path, files.peft(layers))
    return sum(path.stat().st_size for path in root.rglob(FILE))


def span(worker: OneWorker, prompts: Sequence[str]) -> float:
    """Return the seconds from the first image's swap to the last image's end."""
    engine = worker.engine
    return max(map(engine.ended.__getitem__, prompts)) - min(map(engine.began.__getitem__, prompts))


def p99(values: Sequence[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


def write(root: Path, repo: str, content: bytes) -> None:
    folder = root / repo
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(content)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=PARTS)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--ram-mib", type=int)
    arguments = parser.parse_args()
    quieten()
    print(f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    if "churn" in arguments.parts:
        await churn(arguments.rounds)
    if "blocking" in arguments.parts:
        await blocking(arguments.rounds)
    if "catalogue" in arguments.parts:
        await catalogue(arguments.adapters, arguments.ram_mib)


if __name__ == "__main__":
    asyncio.run(main())
