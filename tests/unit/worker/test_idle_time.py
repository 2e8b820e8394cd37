from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.refs import AdapterRef
from tests.builders import BASE, a_job, a_lease
from tests.null_engine import NullEngine
from worker.executor import JobExecutor
from worker.idle_time import IdleTime
from worker.metrics import Gap, WorkerMetrics
from worker.pulse import Pulse
from worker.running import RunningJob


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def idle(clock: Clock) -> IdleTime:
    return IdleTime(clock)


def test_each_part_of_a_gap_is_told_by_what_was_waited_for_in_it(idle: IdleTime, clock: Clock) -> None:
    idle.begin()
    clock.now += 0.25
    idle.wait_for(Gap.WORK)
    clock.now += 7200.0
    idle.wait_for(Gap.WORK)
    clock.now += 7200.0
    idle.wait_for(Gap.ADAPTERS)
    clock.now += 3.0

    assert idle.end() == {Gap.TURNOVER: 0.25, Gap.WORK: 14400.0, Gap.ADAPTERS: 3.0}


def test_what_turns_out_later_is_told_of_the_whole_part(idle: IdleTime, clock: Clock) -> None:
    idle.begin()
    idle.wait_for(Gap.WORK)
    clock.now += 10.0
    idle.wait_for(Gap.TURNOVER)
    clock.now += 0.5
    idle.turns_out(Gap.ADAPTERS)
    clock.now += 2.0

    assert idle.end() == {Gap.TURNOVER: 0.0, Gap.WORK: 10.0, Gap.ADAPTERS: 2.5}


def test_each_gap_is_told_once_and_begins_with_the_worker_itself(idle: IdleTime, clock: Clock) -> None:
    idle.begin()
    idle.wait_for(Gap.ADAPTERS)
    clock.now += 1.0
    idle.end()
    clock.now += 5.0
    idle.begin()
    clock.now += 0.5

    assert idle.end() == {Gap.TURNOVER: 0.5}


def test_nothing_is_told_of_the_time_before_the_first_drawing(idle: IdleTime, clock: Clock) -> None:
    idle.wait_for(Gap.WORK)
    clock.now += 60.0
    with idle.other_work():
        clock.now += 1.0
    clock.now += 60.0

    assert idle.end() == {}


def test_a_check_of_the_base_is_no_idle_time_and_what_was_waited_for_before_is_so_after_it(
    idle: IdleTime, clock: Clock
) -> None:
    idle.begin()
    idle.wait_for(Gap.WORK)
    clock.now += 600.0
    with idle.other_work():
        clock.now += 30.0
    clock.now += 60.0

    assert idle.end()[Gap.WORK] == 660.0


class SlowCheck(NullEngine):
    """Its check of the base takes half a minute of the test's clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(BASE)
        self._clock = clock

    def verify(self) -> None:
        super().verify()
        self._clock.now += 30.0


class EmptyStore:
    """Stands in for the store, for jobs without adapters."""

    @asynccontextmanager
    async def hold(self, _refs: Sequence[AdapterRef], _token: str | None) -> AsyncIterator[tuple[()]]:
        yield ()


async def test_an_executor_tells_the_gap_before_a_drawing_without_the_check_in_it(clock: Clock) -> None:
    metrics, store, results = WorkerMetrics(BASE), EmptyStore(), object()
    given: Any = {"store": store, "results": results}
    with ThreadPoolExecutor(1) as threads:
        executor = JobExecutor(
            engine=SlowCheck(clock),
            compute=threads,
            decoding=threads,
            sealer=None,
            pulse=Pulse(),
            metrics=metrics,
            clock=clock,
            **given,
        )
        await executor.draw(RunningJob(a_lease(job=a_job(adapters=()))), 0.0)
        executor.idle.wait_for(Gap.WORK)
        clock.now += 2.0
        await executor.verify()
        clock.now += 1.0
        await executor.draw(RunningJob(a_lease(job=a_job(adapters=()))), 0.0)

    labels = {"base_model": BASE, "reason": Gap.WORK}
    assert metrics.registry.get_sample_value("warmbase_compute_gap_seconds_sum", labels) == 3.0
    assert metrics.registry.get_sample_value("warmbase_compute_gap_seconds_count", labels) == 1
