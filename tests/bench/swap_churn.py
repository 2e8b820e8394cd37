"""Image after image on the engine alone: what another adapter for each costs, and how long a GPU idles.

What lies between two images is seen by the device's own clock: from the last kernel of the decoder to the
first text encoder's first one. So what a picture takes to become pixels in the host's memory is in it, and
the swap, and all that Python does; what the loop around the engine does is not.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.bench.swap_figures import on_cuda, synchronise
from tests.builders import some_params
from worker.engine.contract import Activation
from worker.engine.diffusers_engine import DiffusersEngine

BLOCKS = 2
"""Of each arm, taken in turn."""

CHURN_STEPS = 4
"""Of each image: few, so that what is between the images counts."""

Moment = Any
"""Of the device's clock: a CUDA event, or on a CPU the process' seconds."""


@dataclass(slots=True)
class Churn:
    """What one arm took.

    Attributes:
        seconds: for all images.
        images: their number.
        gaps: seconds between each two.
        swaps: those of them that the swap took.
    """

    seconds: float = 0.0
    images: int = 0
    gaps: list[float] = field(default_factory=list)
    swaps: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    @property
    def rests(self) -> list[float]:
        """The gaps without the swaps."""
        return [gap - swap for gap, swap in zip(self.gaps, self.swaps, strict=True)]


@dataclass(slots=True)
class Watch:
    """When the device began and ended each image."""

    engine: DiffusersEngine
    began: list[Moment] = field(default_factory=list)
    ended: list[Moment] = field(default_factory=list)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take both while inside."""
        pipeline = self.engine._pipeline
        hooks = [
            pipeline.text_encoder.register_forward_pre_hook(lambda *_: self._begin()),
            pipeline.vae.decoder.register_forward_hook(lambda *_: self.ended.append(self._now())),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def gaps(self) -> list[float]:
        """Return the seconds between each two images."""
        synchronise(self.engine)
        return [
            self._between(ended, began) for ended, began in zip(self.ended[:-1], self.began[1:], strict=True)
        ]

    def _begin(self) -> None:
        if len(self.began) == len(self.ended):  # a negative prompt is encoded, too
            self.began.append(self._now())

    def _now(self) -> Moment:
        if not on_cuda(self.engine):
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call] # torch leaves it so
        event.record()
        return event

    def _between(self, earlier: Moment, later: Moment) -> float:
        if not on_cuda(self.engine):
            return float(later - earlier)
        return float(earlier.elapsed_time(later)) * 1e-3


def churn(engine: DiffusersEngine, first: Any, second: Any, jobs: int) -> tuple[Churn, Churn]:
    """Draw `jobs` images with one adapter, and as many with two in turn; return what either took."""
    same, turns = Churn(), Churn()
    draw(engine, [first, second])  # the first images of their size
    for _ in range(BLOCKS):
        block(engine, [first] * (jobs // BLOCKS), same)
        block(engine, [first, second] * (jobs // BLOCKS // 2), turns)
    return same, turns


def block(engine: DiffusersEngine, order: Sequence[Activation[Any]], churn: Churn) -> None:
    """Draw an image with each, and note what that took. The first swap is not of this arm."""
    watch = Watch(engine)
    engine.activate([order[0]])
    synchronise(engine)
    started = time.perf_counter()
    with watch.watching():
        swaps = draw(engine, order)
    synchronise(engine)
    churn.seconds += time.perf_counter() - started
    churn.images += len(order)
    churn.gaps += watch.gaps()
    churn.swaps += swaps[1:]


def draw(engine: DiffusersEngine, order: Sequence[Activation[Any]]) -> list[float]:
    """Draw an image with each, and return the seconds of the swaps; `activate` waits for the device."""
    took = []
    for wanted in order:
        started = time.perf_counter()
        engine.activate([wanted])
        took.append(time.perf_counter() - started)
        engine.generate(some_params(steps=CHURN_STEPS), lambda _done, _total: None)
    return took
