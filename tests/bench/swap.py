"""The swap against what the original service did: load, fuse, unfuse and unload with plain diffusers.

    python tests/bench/swap.py [--device cuda] [--quarter | --full] [--base FOLDER --adapters FILE FILE ...]

Two arms in one process, taken in turn, medians. Ours goes from one adapter to the other, both in RAM;
the reference loads the same files from the page cache, fuses, and takes them out again. Before it, the
worker's own arms: switches among up to four adapters, from RAM and from the device; from a file to the
device; and on CUDA memory, and images one after the other. Last, the denoiser compiled.

Without arguments it runs on the demo's base and adapters. `--full` is SDXL in all its width, `--quarter` its
topology at a quarter of that; both have random weights, and adapters of SDXL's usual sizes.
"""

import argparse
import copy
import gc
import os
import sys
import tempfile
from pathlib import Path

from worker.__main__ import SWITCH_INTERVAL
from worker.assembly import PINNED_EXACTLY

JOBS_ON_CUDA = 40


def main() -> None:
    """Measure and print."""
    arguments = parse()
    sys.setswitchinterval(SWITCH_INTERVAL)
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # as `load_engine` does
        os.environ.setdefault("PYTORCH_ALLOC_CONF", PINNED_EXACTLY)
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="folder of a base [the demo's]")
    parser.add_argument("--adapters", type=Path, nargs="*", default=[], help="two weight files or more")
    random = parser.add_mutually_exclusive_group()
    random.add_argument("--quarter", action="store_true", help="SDXL at a quarter of its width, random")
    random.add_argument("--full", action="store_true", help="SDXL in all its width, random")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jobs", type=int, help=f"images of each arm [{JOBS_ON_CUDA} on CUDA, else none]")
    arguments = parser.parse_args()
    if arguments.jobs is None:
        arguments.jobs = JOBS_ON_CUDA if arguments.device == "cuda" else 0
    return arguments


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Run all arms on the base that was asked for."""
    # here, for they import torch, which reads its settings when it is first imported
    from tests.bench.swap_arms import group_of, report, report_alone, report_compiled  # noqa: PLC0415
    from tests.bench.swap_bases import engine_of, weight_files  # noqa: PLC0415
    from tests.bench.swap_figures import machine, quieten  # noqa: PLC0415

    quieten()
    print(machine(arguments.device))
    engine = engine_of(arguments)
    groups = [group_of(engine, paths) for paths in weight_files(arguments, engine, folder)]
    gc.collect()
    gc.freeze()  # as a worker does
    for group in groups:
        report_alone(engine, group, arguments.jobs)
    engine.activate([])
    reference = copy.deepcopy(engine._pipeline)
    gc.collect()
    gc.freeze()
    for group in groups:
        report(engine, reference, group, arguments.rounds)
    report_compiled(engine, groups, arguments.rounds)


if __name__ == "__main__":
    main()
