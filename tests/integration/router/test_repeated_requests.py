"""Requests that come again: idempotency keys, tenants, urgency."""

import asyncio

from shared.jobs import Priority
from tests.integration.router.conftest import ADAPTER, eventually


async def draw(http, router, prompt="a cat", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.post(f"{router}/models/{ADAPTER}", json={"inputs": prompt}, headers=headers) as response:
        return response.status, response.headers.get("X-Job-Id"), await response.read()


async def test_a_hundred_requests_with_one_key_are_one_job_and_the_same_answer(http, router, worker):
    answers = await asyncio.gather(*(draw(http, router, Idempotency_Key="4c1d8c0e") for _ in range(100)))

    assert len(worker.jobs) == 1
    assert set(answers) == {(200, worker.jobs[0].id, answers[0][2])}


async def test_a_key_that_comes_again_after_the_end_gets_the_same_answer(http, router, worker):
    first = await draw(http, router, Idempotency_Key="4c1d8c0e")
    assert await draw(http, router, Idempotency_Key="4c1d8c0e") == first
    assert len(worker.jobs) == 1


async def test_another_request_under_a_known_key_is_refused(http, router, worker):
    await draw(http, router, Idempotency_Key="4c1d8c0e")
    status, _, body = await draw(http, router, "a dog", Idempotency_Key="4c1d8c0e")
    assert status == 422
    assert b'"field": "Idempotency-Key"' in body


async def test_the_key_of_another_caller_is_another(http, router, worker):
    mine = await draw(http, router, Idempotency_Key="4c1d8c0e", Authorization="Bearer hf_one")
    other = await draw(http, router, Idempotency_Key="4c1d8c0e", Authorization="Bearer hf_two")
    assert (mine[0], other[0]) == (200, 200)
    first, second = worker.jobs
    assert first.tenant != second.tenant
    assert mine[1] != other[1]


async def test_a_job_with_a_key_goes_on_when_its_client_leaves(http, router, worker):
    worker.free.clear()
    left = asyncio.create_task(draw(http, router, Idempotency_Key="4c1d8c0e"))
    await eventually(lambda: worker.has_claimed(1))
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    again = asyncio.create_task(draw(http, router, Idempotency_Key="4c1d8c0e"))
    await asyncio.sleep(0.3)
    worker.free.set()

    assert (await again)[:2] == (200, worker.jobs[0].id)
    assert (len(worker.jobs), worker.cancelled) == (1, [])


async def test_who_says_that_it_can_wait_waits(http, router, worker):
    await draw(http, router, Priority="u=6, i")
    await draw(http, router, Priority="u=0")
    assert [job.priority for job in worker.jobs] == [Priority.LOW, Priority.NORMAL]


async def test_a_key_that_cannot_be_one_is_refused(http, router, worker):
    status, _, body = await draw(http, router, Idempotency_Key="x" * 256)
    assert status == 422
    assert b"Idempotency-Key" in body
