"""One job on the compute thread: what others are told of that thread meanwhile."""

import hashlib
import io
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from PIL import Image

from shared.errors import QueueUnavailable
from shared.jobs import GenerationParams
from shared.refs import AdapterRef
from tests.builders import BASE, a_job, a_lease, some_params
from tests.null_engine import RAISE, NullAdapter, NullEngine
from tests.unit.worker.conftest import Clock
from worker.engine.contract import Generated, StepCallback
from worker.executor import JobExecutor
from worker.metrics import Gap, WorkerMetrics
from worker.pulse import Pulse
from worker.running import RunningJob

STEP, CHECK = 1.0, 30.0
"""Seconds of the test's clock."""


class TimedEngine(NullEngine):
    """Moves the test's clock in each step and each check, and notes how long the pulse was silent by then."""

    def __init__(self, clock: Clock, pulse: Pulse) -> None:
        super().__init__(BASE)
        self._clock = clock
        self._pulse = pulse
        self.silences: list[float] = []

    def generate(
        self, params: GenerationParams, on_step: StepCallback, source: Image.Image | None = None
    ) -> Generated:
        def timed(done: int, total: int) -> None:
            self._pass(STEP)
            on_step(done, total)

        return super().generate(params, timed, source)

    def verify(self) -> None:
        super().verify()
        self._pass(CHECK)

    def _pass(self, seconds: float) -> None:
        self._clock.now += seconds
        self.silences.append(self._pulse.silence())


class EmptyStore:
    """Stands in for the store, for jobs without adapters."""

    @asynccontextmanager
    async def hold(self, _refs: Sequence[AdapterRef], _token: str | None) -> AsyncIterator[tuple[()]]:
        yield ()

    async def fetch(self, _refs: Sequence[AdapterRef], _token: str | None, **_options: Any) -> list[Any]:
        return []

    async def lift(self, _refs: Sequence[AdapterRef], _adapters: Sequence[Any]) -> None:
        """There is nothing to lift."""


class Away:
    """What keeps pictures: it does not answer before it was asked a few times."""

    def __init__(self, picture: bytes) -> None:
        self._picture = picture
        self.asked = 0

    async def get(self, _name: str) -> bytes:
        self.asked += 1
        if self.asked < 4:
            raise QueueUnavailable("away")
        return self._picture


@pytest.fixture
def results() -> Away:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    return Away(file.getvalue())


@pytest.fixture
def pulse(clock: Clock) -> Pulse:
    return Pulse(clock)


@pytest.fixture
def engine(clock: Clock, pulse: Pulse) -> TimedEngine:
    return TimedEngine(clock, pulse)


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics(BASE)


@pytest.fixture
def executor(
    engine: TimedEngine, pulse: Pulse, metrics: WorkerMetrics, clock: Clock, results: Away
) -> Iterator[JobExecutor[NullAdapter]]:
    given: Any = {"store": EmptyStore(), "results": results}
    with ThreadPoolExecutor(1) as threads:
        yield JobExecutor(
            engine=engine,
            compute=threads,
            decoding=threads,
            sealer=None,
            pulse=pulse,
            metrics=metrics,
            clock=clock,
            **given,
        )


def a_running_job(**params: Any) -> RunningJob:
    return RunningJob(a_lease(job=a_job(adapters=(), params=some_params(**params))))


async def test_an_executor_tells_the_gap_before_a_drawing_without_the_check_in_it(
    executor: JobExecutor[NullAdapter], metrics: WorkerMetrics, clock: Clock
) -> None:
    await executor.draw(a_running_job(), 0.0)
    executor.idle.wait_for(Gap.WORK)
    clock.now += 2.0
    await executor.verify()
    clock.now += 1.0
    await executor.draw(a_running_job(), 0.0)

    labels = {"base_model": BASE, "reason": Gap.WORK}
    assert metrics.registry.get_sample_value("warmbase_compute_gap_seconds_sum", labels) == 3.0
    assert metrics.registry.get_sample_value("warmbase_compute_gap_seconds_count", labels) == 1


async def test_the_pulse_beats_at_each_step_and_rests_once_the_image_is_drawn(
    executor: JobExecutor[NullAdapter], engine: TimedEngine, pulse: Pulse, clock: Clock
) -> None:
    await executor.draw(a_running_job(steps=3), 0.0)
    clock.now += 3600.0

    assert engine.silences == [STEP, STEP, STEP]
    assert pulse.silence() == 0.0


async def test_and_rests_after_a_drawing_that_failed(
    executor: JobExecutor[NullAdapter], pulse: Pulse, clock: Clock
) -> None:
    with pytest.raises(RuntimeError):
        await executor.draw(a_running_job(prompt=RAISE), 0.0)
    clock.now += 3600.0

    assert pulse.silence() == 0.0


async def test_a_check_of_the_base_that_hangs_is_noticed_and_one_that_ends_is_followed_by_rest(
    executor: JobExecutor[NullAdapter], engine: TimedEngine, pulse: Pulse, clock: Clock
) -> None:
    await executor.verify()
    clock.now += 3600.0

    assert engine.silences == [CHECK]
    assert pulse.silence() == 0.0


async def test_a_job_is_far_while_what_keeps_its_picture_does_not_answer(
    executor: JobExecutor[NullAdapter], results: Away
) -> None:
    digest = hashlib.sha256(results._picture).hexdigest()
    running, told = a_running_job(source=digest), list[int]()
    await executor.fetch(running, lambda: told.append(results.asked))

    assert told == [1, 2, 3]
    assert running.source is not None
