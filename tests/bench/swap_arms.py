"""The arms of the swap's bench, for adapters of one size, and what is printed of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.bench.swap_bases import HUB, activation
from tests.bench.swap_churn import churn
from tests.bench.swap_figures import bars_of, measured, on_cuda, percentile, row, timed
from tests.bench.swap_floor import Floor
from tests.bench.swap_reference import cycle, difference, load, unload
from tests.bench.swap_steps import compiled_steps, eager_steps
from worker.engine.adapter import CanonicalAdapter
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.ingest import ingest
from worker.engine.layouts import Layouts

SWITCHES = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Adapters of one size, two or more: their files, and what a worker holds of them in RAM."""

    paths: Sequence[Path]
    adapters: Sequence[CanonicalAdapter]

    @property
    def nbytes(self) -> float:
        """Of a file, in the mean."""
        return sum(path.stat().st_size for path in self.paths) / len(self.paths)

    def wanted(self, adapters: Sequence[CanonicalAdapter], scale: float = 1.0) -> list[Any]:
        """Return what has each of `adapters`, which are these wherever they lie, be the active one."""
        return [
            [activation(adapter, path, scale)] for adapter, path in zip(adapters, self.paths, strict=True)
        ]

    def print_title(self) -> None:
        weights = len(self.adapters[0].changes)
        print(f"\n{' <-> '.join(map(title, self.paths))}: {self.nbytes / 1e6:.1f} MB, {weights} weights")


def title(path: Path) -> str:
    return path.parent.name if path.is_relative_to(HUB) else path.stem


def group_of(engine: DiffusersEngine, paths: Sequence[Path]) -> Group:
    return Group(paths=paths, adapters=[engine.ingest(path) for path in paths])


def report_alone(engine: DiffusersEngine, group: Group, jobs: int) -> None:
    """Print what the worker's own arms take, before the reference has memory beside them."""
    group.print_title()
    hot = report_switches(engine, group)
    report_files(engine, group)
    if on_cuda(engine):
        report_memory(engine, hot)
    if jobs:
        report_churn(engine, group, hot, jobs)


def report_switches(engine: DiffusersEngine, group: Group) -> list[Any]:
    """Print switches among all of the group, from RAM and from the device, and return the latter."""
    hot = group.wanted(group.adapters)
    print_switches(engine, group, hot, "switch, all in RAM")
    if not on_cuda(engine):
        return hot
    raised, took = [], []
    for adapter in group.adapters:
        there, seconds = measured(engine, lambda adapter=adapter: engine.raise_up(adapter))
        if there is None:
            print("  the device has no room to spare for adapters")
            return hot
        raised.append(there)
        took.append(seconds)
    seconds = statistics.median(took)
    row("raising to the device", seconds, f"{group.nbytes / seconds / 1e9:.1f} GB/s")
    hot = group.wanted(raised)
    print_switches(engine, group, hot, "switch, all on the device")
    return hot


def print_switches(engine: DiffusersEngine, group: Group, wanted: Sequence[Any], name: str) -> None:
    for each in wanted:  # keeps the pristine copies, as a worker's first jobs do
        engine.activate(each)
    took = [
        timed(engine, lambda n=number: engine.activate(wanted[n % len(wanted)])) for number in range(SWITCHES)
    ]
    bar = bars_of(engine, group.nbytes).switch
    asked = "" if bar is None else f" (bar: p50 {bar * 1e3:.0f})"
    row(name, statistics.median(took), f"p50 of {SWITCHES}; p99 {percentile(took, 0.99) * 1e3:.2f}{asked}")


def report_files(engine: DiffusersEngine, group: Group) -> None:
    """Print how fast a file in the page cache becomes an adapter on the device, its header known.

    Its digest comes after that; for many files in a row it is what they wait for.
    """
    rates, took = [], []
    for path in group.paths:
        path.read_bytes()
        raised, seconds = measured(engine, lambda path=path: engine.raise_up(engine.ingest(path)))
        rest_of(raised)
        took.append(seconds)
        rates.append(path.stat().st_size / took[-1] / 1e9)
    where, bar = ("the device", " (bar: 5 from 200 MB on)") if on_cuda(engine) else ("RAM", "")
    rate = f"{statistics.median(rates):.2f} GB/s, least {min(rates):.2f}{bar}"
    row(f"file to {where}", statistics.median(took), rate)


def rest_of(given: object) -> None:
    """Wait for what an ingest leaves to be done beside what follows, so that no other arm pays for it."""
    if isinstance(given, CanonicalAdapter):
        given.digest.result()


def report_memory(engine: DiffusersEngine, wanted: Sequence[Any]) -> None:
    """Print what the base takes with its pristine copies, and the most that switches have beside it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    for each in wanted:
        engine.activate(each)
    peak = torch.cuda.max_memory_allocated()
    print(f"  memory: {held / 1e9:.2f} GB held, up to {(peak - held) / 1e9:.2f} GB more in a switch")


def report_churn(engine: DiffusersEngine, group: Group, hot: Sequence[Any], jobs: int) -> None:
    """Print images per second in turns against all with one adapter, and what lies between the images."""
    same, turns = churn(engine, hot[0][0], hot[1][0], jobs)
    bar = bars_of(engine, group.nbytes).churn
    print(f"  images per second, A,B,A,B / A,A,A,A  {turns.rate / same.rate:.3f} (bar: {bar})")
    for name, gaps in (
        ("between images, A,A,A,A", same.gaps),
        ("between images, A,B,A,B: idle at most", turns.gaps),
        ("less the swaps: idle at least", turns.rests),
    ):
        row(
            name,
            percentile(gaps, 0.99),
            f"p99 of {len(gaps)}, p50 {statistics.median(gaps) * 1e3:.2f} (bar: p99 5)",
        )


def report(engine: DiffusersEngine, reference: Any, group: Group, rounds: int) -> None:
    """Time all arms in turn, the reference among them, and print their medians."""
    group.print_title()
    adapters, paths = group.adapters, group.paths
    wanted, weaker = group.wanted(adapters), group.wanted(adapters, 0.5)
    floors = [Floor(engine, adapter) for adapter in adapters[:2]]
    engine.activate(wanted[0])
    engine.activate(wanted[1])
    cycle(reference, paths[0])  # peft's and transformers' imports

    def read(number: int, layouts: Layouts) -> CanonicalAdapter:
        # not as the engine does, which goes on to page-locked memory where there is a GPU
        return ingest(paths[number], engine._targets, engine._conversion, layouts, engine._readings)

    arms: dict[str, Callable[[int], object]] = {
        "swap": lambda n: engine.activate(wanted[n]),
        "strength": lambda n: engine.activate(weaker[n]),
        "copy": lambda n: floors[n].copy(),
        "product": lambda n: floors[n].multiply(),
        "restore": lambda _: engine.activate([]),
        "known header": lambda n: read(n, engine._layouts),
        "new header": lambda n: read(n, Layouts()),
        "read": lambda n: paths[n].read_bytes(),
        "load and fuse": lambda n: load(reference, paths[n]),
        "unfuse and unload": lambda _: unload(reference),
    }
    took: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm, work in arms.items():
            given, seconds = measured(engine, lambda work=work, n=number: work(n % 2))
            rest_of(given)
            took[arm].append(seconds)
        engine.activate(wanted[number % 2])
    median = {arm: statistics.median(seconds) for arm, seconds in took.items()}
    print_medians(engine, group, floors[0], median, f"median of {rounds}, min {min(took['swap']) * 1e3:.2f}")
    active, ratio = eager_steps(engine, wanted[0], rounds)
    bar = bars_of(engine, group.nbytes).step
    row("denoising step", active, f"{ratio:.4f} x without an adapter (bar: {bar})")
    apart = difference(engine, reference, adapters[0], paths[0])
    print(f"  largest difference of a weight from fuse_lora's: {apart:.1e}")
    engine.verify()
    print("  the base is bit by bit what it was")


def print_medians(
    engine: DiffusersEngine, group: Group, floor: Floor, median: dict[str, float], spread: str
) -> None:
    swap, bars = median["swap"], bars_of(engine, group.nbytes)
    least, full = median["copy"] + median["product"], median["load and fuse"] + median["unfuse and unload"]
    row("swap, both in RAM", swap, spread)
    row("load+fuse+unfuse+unload", full, f"{full / swap:.1f} x the swap (bar: {bars.reference:g})")
    moved = 2 * floor.nbytes / median["copy"] / 1e9
    row("copy of the weights", median["copy"], f"{moved:.0f} GB/s; {median['copy'] / swap:.2f} of the swap")
    row("product of the factors", median["product"], f"{median['product'] / swap:.2f} of the swap")
    row("copy + product", least, f"the swap is {swap / least:.2f} x that (bar: 2.5)")
    row("strength only", median["strength"], f"{median['strength'] / swap:.2f} x a swap (bar: 1.0)")
    row("back to the bare base", median["restore"], "")
    for arm in ("known header", "new header"):
        row(
            f"file to canonical, {arm}",
            median[arm],
            f"{median[arm] / median['read']:.1f} x reading its bytes (bar: 3); "
            f"load+fuse is {median['load and fuse'] / median[arm]:.0f} x that (bar: 10)",
        )


def report_compiled(engine: DiffusersEngine, groups: Sequence[Group], rounds: int) -> None:
    """Print what a step takes once the denoiser is compiled, for good; on a CPU, that it stays so."""
    print(f"\ncompiled{'' if on_cuda(engine) else ', in one untimed round'}")
    found = compiled_steps(engine, [group.wanted(group.adapters)[0] for group in groups], rounds)
    for group, (active, ratio) in zip(groups, found, strict=True):
        if on_cuda(engine):
            name, bar = f"denoising step, {group.nbytes / 1e6:.1f} MB", bars_of(engine, group.nbytes).step
            row(name, active, f"{ratio:.4f} x without an adapter (bar: {bar})")
    engine.verify()
    print("  no swap had anything compiled anew")
