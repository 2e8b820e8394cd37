import asyncio
import gc

import pytest

from worker.flights import Flights


async def test_many_that_want_the_same_start_it_once() -> None:
    flights, started = Flights[str, int](), []

    async def bring() -> int:
        started.append(None)
        await asyncio.sleep(0)
        return 7

    assert await asyncio.gather(*(flights.join("a", bring) for _ in range(5))) == [7] * 5
    assert len(started) == 1
    assert len(flights) == 0


async def test_who_leaves_does_not_stop_the_flight_for_the_others() -> None:
    flights, landed = Flights[str, int](), asyncio.Event()

    async def bring() -> int:
        await landed.wait()
        return 7

    leaving, staying = (asyncio.create_task(flights.join("a", bring)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    landed.set()
    assert await staying == 7


async def test_an_error_reaches_all_who_wait_and_the_next_one_starts_anew() -> None:
    flights, times = Flights[str, int](), []

    async def bring() -> int:
        times.append(None)
        if len(times) == 1:
            raise OSError("gone")
        return 7

    first, second = await asyncio.gather(
        *(flights.join("a", bring) for _ in range(2)), return_exceptions=True
    )
    assert isinstance(first, OSError)
    assert isinstance(second, OSError)
    assert await flights.join("a", bring) == 7


async def test_an_error_that_nobody_waits_for_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    flights = Flights[str, int]()

    async def bring() -> int:
        await asyncio.sleep(0)
        raise OSError("gone")

    waiting = asyncio.create_task(flights.join("a", bring))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(flights) == 0
    gc.collect()  # asyncio complains of an error that nobody saw when it forgets it
    assert not caplog.records
