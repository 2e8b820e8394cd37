import asyncio
import gc
import weakref
from dataclasses import replace

import pytest

from router.metadata_cache import Lifetimes, MetadataCache
from shared.errors import HubUnavailable, InvalidRequest, RepoNotFound

LIFETIMES = Lifetimes(fresh=300.0, negative=15.0, stale=1000.0, retry=5.0)


class Source:
    """Answers with a counter, or with the error that is set."""

    def __init__(self):
        self.now = 0.0
        self.calls = 0
        self.error = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, key):
        self.calls += 1
        call = self.calls
        await self.gate.wait()
        if self.error:
            raise self.error
        return f"{key}:{call}"

    def cache(self, lifetimes=LIFETIMES, capacity=100):
        return MetadataCache(self.fetch, lifetimes=lifetimes, clock=lambda: self.now, capacity=capacity)


@pytest.fixture
async def source():
    return Source()


async def test_a_thousand_simultaneous_questions_make_one_call(source):
    cache = source.cache()
    source.gate.clear()
    questions = [asyncio.create_task(cache.get("a")) for _ in range(1000)]
    await asyncio.sleep(0)
    source.gate.set()

    assert set(await asyncio.gather(*questions)) == {"a:1"}
    assert source.calls == 1


async def test_a_thousand_simultaneous_questions_about_nothing_make_one_call(source):
    cache = source.cache()
    source.error = RepoNotFound("a")
    answers = await asyncio.gather(*(cache.get("a") for _ in range(1000)), return_exceptions=True)

    assert {type(answer) for answer in answers} == {RepoNotFound}
    assert source.calls == 1


async def test_who_asked_first_may_leave(source):
    cache = source.cache()
    source.gate.clear()
    first = asyncio.create_task(cache.get("a"))
    second = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0)
    first.cancel()
    source.gate.set()

    assert await second == "a:1"
    assert source.calls == 1


async def test_an_answer_is_given_again_while_it_is_fresh(source):
    cache = source.cache()
    await cache.get("a")
    source.now = 299.9
    assert await cache.get("a") == "a:1"
    source.now = 300.0
    assert await cache.get("a") == "a:2"


async def test_no_such_thing_is_remembered_for_less_long(source):
    cache = source.cache()
    source.error = RepoNotFound("a")
    for source.now in (0.0, 14.9):
        with pytest.raises(RepoNotFound):
            await cache.get("a")
    assert source.calls == 1

    source.now, source.error = 15.0, None
    assert await cache.get("a") == "a:2"


async def test_a_stale_answer_stands_in_while_the_source_fails_and_spares_it(source):
    cache = source.cache()
    await cache.get("a")
    source.now, source.error = 301.0, HubUnavailable("down")
    assert await cache.get("a") == "a:1"
    source.now = 305.9
    assert await cache.get("a") == "a:1"
    assert source.calls == 2

    source.now, source.error = 306.0, None
    assert await cache.get("a") == "a:3"


async def test_a_stale_answer_stands_in_while_the_source_hangs_and_what_it_brings_is_kept(source):
    cache = source.cache(replace(LIFETIMES, patience=0.01))
    await cache.get("a")
    source.now, source.error = 301.0, HubUnavailable("no answer in time")
    assert await cache.get("a") == "a:1"
    source.now, source.error = 307.0, None
    source.gate.clear()
    async with asyncio.timeout(10):
        assert [await cache.get("a") for _ in range(3)] == ["a:1"] * 3
    assert source.calls == 3
    assert cache.known("a") == "a:1"  # for who asks later, and does not wait
    source.now = 312.0
    assert cache.known("a") is None
    source.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await cache.get("a") == "a:3"


async def assert_waits(source, cache, answer):
    """Who asks for `a` gets this once the source gives it, and nothing before."""
    source.gate.clear()
    asking = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0.01)
    assert not asking.done()
    source.gate.set()
    assert await asking == answer


async def test_a_source_that_is_slow_and_answers_is_waited_for(source):
    cache = source.cache(replace(LIFETIMES, patience=0.0))
    await cache.get("a")
    source.now = 301.0
    await assert_waits(source, cache, "a:2")


async def test_a_source_that_failed_and_has_answered_since_is_waited_for_again(source):
    cache = source.cache(replace(LIFETIMES, patience=0.0))
    await cache.get("a")
    source.now, source.error = 301.0, HubUnavailable("down")
    await cache.get("a")
    source.error = None
    await cache.get("b")
    source.now = 307.0
    await assert_waits(source, cache, "a:4")


async def test_a_stale_answer_has_an_end(source):
    cache = source.cache()
    await cache.get("a")
    source.now, source.error = 1300.0, HubUnavailable("down")
    with pytest.raises(HubUnavailable):
        await cache.get("a")


async def test_a_failure_without_an_older_answer_is_told_and_not_remembered(source):
    cache = source.cache()
    source.error = HubUnavailable("down")
    with pytest.raises(HubUnavailable):
        await cache.get("a")
    source.error = None
    assert await cache.get("a") == "a:2"


async def test_a_repository_that_was_deleted_is_not_answered_from_memory(source):
    cache = source.cache()
    await cache.get("a")
    source.now, source.error = 301.0, RepoNotFound("a")
    with pytest.raises(RepoNotFound):
        await cache.get("a")
    source.error = HubUnavailable("down")
    source.now = 317.0
    with pytest.raises(HubUnavailable):
        await cache.get("a")


async def test_the_entries_used_last_are_kept(source):
    cache = source.cache(capacity=2)
    await cache.get("a")
    await cache.get("b")
    await cache.get("a")
    await cache.get("c")
    assert await cache.get("a") == "a:1"
    assert await cache.get("b") == "b:4"


async def test_an_error_given_to_many_does_not_grow(source):
    cache = source.cache()
    source.error = RepoNotFound("a")
    depths = []
    for _ in range(5):
        with pytest.raises(RepoNotFound) as caught:
            await cache.get("a")
        depths.append(len(caught.traceback))
    assert depths[1] == depths[-1]


async def test_closing_ends_calls_under_way(source):
    cache = source.cache()
    source.gate.clear()
    question = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0)
    await cache.close()
    with pytest.raises(asyncio.CancelledError):
        await question


class Body:
    """A request's body, as a frame that is passed by an error holds it."""


async def test_what_is_kept_of_a_refusal_holds_no_request(source):
    cache = source.cache()
    source.error = RepoNotFound("a")

    async def ask(body):
        with pytest.raises(RepoNotFound, match="a") as caught:
            await cache.get("a")
        return weakref.ref(body), caught.value

    bodies = [(await ask(Body()))[0] for _ in range(3)]
    gc.collect()
    assert source.calls == 1
    assert [body() for body in bodies] == [None] * 3


async def test_a_refusal_that_is_raised_again_says_the_same(source):
    cache = source.cache()
    source.error = InvalidRequest("parameters.revision", "is no branch")
    said = []
    for _ in range(2):
        with pytest.raises(InvalidRequest) as caught:
            await cache.get("a")
        said.append((caught.value.message, caught.value.field))
    assert said == [("parameters.revision: is no branch", "parameters.revision")] * 2


async def test_who_hears_of_an_outage_can_look_up_its_cause(source):
    cause = OSError("no route")
    source.error = HubUnavailable("the Hub does not answer")
    source.error.__cause__ = cause
    with pytest.raises(HubUnavailable) as caught:
        await source.cache().get("a")
    assert caught.value.__cause__ is cause
