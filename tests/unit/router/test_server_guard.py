"""What the router learns of its server between requests, and what it makes of it."""

import asyncio

import pytest

from router import server_guard
from router.server_guard import NEARLY_FULL, ServerGuard
from shared.errors import QueueUnavailable
from shared.redis_client import SILENT


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(server_guard, "ANSWER_WITHIN", 0.02)
    monkeypatch.setattr(server_guard, "ASK_EVERY", 0.0)


async def good():
    return ()


async def refusal(guard):
    try:
        await guard.admit()
    except QueueUnavailable as error:
        return error.message
    return None


async def becomes(guard, wanted):
    async with asyncio.timeout(10):
        while await refusal(guard) != wanted:  # noqa: ASYNC110 - what changes it is a loop of the guard
            await asyncio.sleep(0.001)


async def test_a_server_that_is_late_is_silent_until_it_answers_and_is_not_cut_short():
    answers, cut_short = asyncio.Event(), []

    async def has_room():
        try:
            await answers.wait()
        except asyncio.CancelledError:
            cut_short.append(True)
            raise
        return True

    async with ServerGuard(good, has_room) as guard:
        await becomes(guard, SILENT)
        assert not cut_short
        answers.set()
        await becomes(guard, None)
        assert not cut_short


async def test_a_server_that_times_out_stays_silent():
    async def has_room():
        await asyncio.sleep(0.03)
        raise QueueUnavailable(SILENT)

    async with ServerGuard(good, has_room) as guard:
        await becomes(guard, SILENT)
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert await refusal(guard) == SILENT


async def test_a_server_that_refuses_at_once_is_left_to_each_request():
    asked = []

    async def has_room():
        asked.append(True)
        await asyncio.sleep(0)
        raise QueueUnavailable("connection refused")

    async with ServerGuard(good, has_room) as guard:
        while len(asked) < 5:
            assert await refusal(guard) is None
            await asyncio.sleep(0.001)


async def test_a_server_without_room_gets_no_jobs_until_it_has_some():
    room = asyncio.Event()

    async def has_room():
        await asyncio.sleep(0)
        return room.is_set()

    async with ServerGuard(good, has_room) as guard:
        await becomes(guard, NEARLY_FULL)
        room.set()
        await becomes(guard, None)


async def test_what_nobody_foresaw_refuses_nothing_and_is_logged_once(caplog):
    asked = []

    async def has_room():
        asked.append(True)
        await asyncio.sleep(0)
        raise RuntimeError("unforeseen")

    async with ServerGuard(good, has_room) as guard:
        while len(asked) < 5:
            assert await refusal(guard) is None
            await asyncio.sleep(0.001)
    assert caplog.text.count("the server could not be asked") == 1


async def test_where_no_one_server_speaks_for_all_none_is_asked():
    async with ServerGuard(good, None) as guard:
        assert await refusal(guard) is None
