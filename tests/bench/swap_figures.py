"""How the benches of the swap take time, and what they print beside it."""

import gc
import logging
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import diffusers
import torch
import transformers

from worker.engine.diffusers_engine import DiffusersEngine

R = TypeVar("R")

LARGE_NBYTES = 30e6
"""From which on the bars of the larger adapters hold: 340 MB on a GPU, 85 MB in float32 on a CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """What has to be reached with adapters of a size on a device.

    Attributes:
        switch: seconds that half of the switches may take; on a CPU ratios alone are asked for.
        reference: switches in the time of load, fuse, unfuse and unload.
        step: a denoising step with an adapter against one without.
        churn: images per second where each has another adapter, against all with the same one.
    """

    switch: float | None
    reference: float
    step: float
    churn: float


def bars_of(engine: DiffusersEngine, nbytes: float) -> Bars:
    large = nbytes >= LARGE_NBYTES
    if on_cuda(engine):
        return Bars(switch=25e-3 if large else 10e-3, reference=100, step=1.005, churn=0.99)
    return Bars(switch=None, reference=12 if large else 15, step=1.01, churn=0.95)


def quieten() -> None:
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)


def machine(device: str) -> str:
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return f"{where} ({platform.machine()}), torch {torch.__version__}, diffusers {diffusers.__version__}"


def row(name: str, seconds: float, remark: str) -> None:
    print(f"  {name:<34}{seconds * 1e3:10.2f} ms   {remark}".rstrip(), flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least of `values` that this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def timed(engine: DiffusersEngine, work: Callable[[], object]) -> float:
    """Return seconds, the device idle at both ends."""
    return measured(engine, work)[1]


def measured(engine: DiffusersEngine, work: Callable[[], R]) -> tuple[R, float]:
    """Return what `work` gives, and seconds, the device idle at both ends.

    No arm pays for what another has left to Python's collector: after a load with diffusers and PEFT it takes
    longer than an ingest.
    """
    gc.collect()
    synchronise(engine)
    started = time.perf_counter()
    given = work()
    synchronise(engine)
    return given, time.perf_counter() - started


def synchronise(engine: DiffusersEngine) -> None:
    if on_cuda(engine):
        torch.cuda.synchronize()


def on_cuda(engine: DiffusersEngine) -> bool:
    return engine.info.device.startswith("cuda")
