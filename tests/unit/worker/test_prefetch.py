"""What is prefetched by hints, against a store that only notes what it is asked for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared.errors import HubUnavailable
from shared.jobs import Job
from shared.refs import AdapterRef, RepoId
from tests.builders import a_job, an_adapter
from worker.prefetch import FAILURE_MEMORY, MOST_AT_ONCE, Prefetch


class NotingStore:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.kept: set[str] = set()
        self.failing: set[str] = set()
        self.error: Exception = HubUnavailable("not now")
        self.has_room = True

    @asynccontextmanager
    async def ahead(self, ref: AdapterRef) -> AsyncIterator[bool]:
        self.asked.append(ref.repo)
        await asyncio.sleep(0)
        if ref.repo in self.failing:
            raise self.error
        if self.has_room:
            self.kept.add(ref.repo)
        try:
            yield self.has_room
        finally:
            self.kept.discard(ref.repo)


def hint(*names: str) -> Job:
    return a_job(adapters=tuple(an_adapter(repo=RepoId(f"someone/{name}")) for name in names))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def names(*of: str) -> set[str]:
    return {f"someone/{name}" for name in of}


async def test_what_is_hinted_is_kept_until_it_is_hinted_no_more() -> None:
    store = NotingStore()
    prefetch = Prefetch(store)
    prefetch.follow([hint("a"), hint("b", "c")])
    await settle()
    assert store.kept == names("a", "b", "c")
    prefetch.follow([hint("c"), hint("d")])
    await settle()
    assert store.kept == names("c", "d")
    await prefetch.close()
    assert store.kept == set()
    assert sorted(store.asked) == sorted(names("a", "b", "c", "d"))


async def test_one_adapter_of_several_hints_and_strengths_is_wanted_once() -> None:
    store = NotingStore()
    prefetch = Prefetch(store)
    half = a_job(adapters=(an_adapter(repo=RepoId("someone/a"), scale=0.5),))
    prefetch.follow([hint("a"), half])
    await settle()
    assert store.asked == ["someone/a"]
    await prefetch.close()


async def test_the_first_hints_come_first_and_no_more_than_so_many_at_once() -> None:
    store = NotingStore()
    prefetch = Prefetch(store)
    many = [f"n{number}" for number in range(MOST_AT_ONCE + 5)]
    prefetch.follow([hint(name) for name in many])
    await settle()
    assert store.asked == [f"someone/{name}" for name in many[:MOST_AT_ONCE]]
    await prefetch.close()


@pytest.mark.parametrize("error", [HubUnavailable("not now"), OSError("a fault of our own")])
async def test_one_that_failed_is_left_to_its_job_for_a_while(error: Exception) -> None:
    store, now = NotingStore(), 0.0
    store.error = error
    store.failing = names("a")
    prefetch = Prefetch(store, clock=lambda: now)
    for _ in range(10):
        prefetch.follow([hint("a"), hint("b")])
        await settle()
    assert sorted(store.asked) == ["someone/a", "someone/b"]

    now = FAILURE_MEMORY + 1
    store.failing = set()
    prefetch.follow([hint("a"), hint("b")])
    await settle()
    assert store.kept == names("a", "b")
    await prefetch.close()


async def test_one_that_had_no_room_is_tried_again_with_the_next_hints() -> None:
    store = NotingStore()
    store.has_room = False
    prefetch = Prefetch(store)
    prefetch.follow([hint("a")])
    await settle()
    store.has_room = True
    prefetch.follow([hint("a")])
    await settle()
    assert store.kept == names("a")
    await prefetch.close()
