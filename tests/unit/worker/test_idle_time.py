import pytest

from tests.unit.worker.conftest import Clock
from worker.idle_time import IdleTime
from worker.metrics import Gap


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
