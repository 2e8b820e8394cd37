"""Images that are gone although their job succeeded: drawn once more, or said to be gone."""

import pytest

from shared.queue.keys import BaseKeys
from shared.refs import base_tag
from shared.results.file_store import FileResults
from tests.builders import BASE
from tests.integration.router.conftest import ADAPTER


class LosingResults:
    """Loses the first `times` images before anyone can know of them."""

    def __init__(self, redis, results, times):
        self._redis = redis
        self._results = results
        self._left = times

    async def put(self, lease, data):
        name = await self._results.put(lease, data)
        if self._left:
            self._left -= 1
            await self._redis.delete(BaseKeys(base_tag(BASE)).blob(name))
        return name


@pytest.fixture
def losing(worker, redis):
    def lose(times):
        worker.results = LosingResults(redis, worker.results, times)

    return lose


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "one"}])
async def test_it_is_drawn_once_more_with_the_same_seed_under_a_new_id(http, router, worker, losing, key):
    losing(1)
    async with http.post(f"{router}/models/{ADAPTER}", data="a cat", headers=key) as response:
        image = await response.read()

    assert response.status == 200
    assert image.startswith(b"\x89PNG")
    first, second = worker.jobs
    assert first.id != second.id
    assert first.params == second.params
    assert first.adapters == second.adapters
    assert second.timeout < first.timeout
    assert response.headers["X-Job-Id"] == second.id
    assert response.headers["X-Warmbase-Seed"] == str(first.params.seed)


async def test_a_repeated_request_gets_the_seed_of_the_one_that_was_first(http, router, worker, redis):
    bodies = []
    for _ in range(2):
        headers = {"Idempotency-Key": "one"}
        async with http.post(f"{router}/models/{ADAPTER}", data="a cat", headers=headers) as response:
            assert response.status == 200
            bodies.append(await response.read())
        for blob in await redis.keys("*:blob:*"):
            await redis.delete(blob)

    assert bodies[0] == bodies[1]
    first, second = worker.jobs
    assert first.params.seed == second.params.seed


async def test_after_the_second_time_it_is_said_to_be_gone(http, router, worker, losing):
    losing(2)
    async with http.post(f"{router}/models/{ADAPTER}", data="a cat") as response:
        body = await response.json()

    assert response.status == 410
    assert response.headers["X-Error-Code"] == body["error_type"] == "result_gone"
    assert "expired" in body["error"]
    assert len(worker.jobs) == 2


async def test_images_may_be_in_files(http, start_router, worker, tmp_path, redis):
    router = await start_router(WARMBASE_RESULTS_URL=f"file://{tmp_path}/images")
    worker.results = FileResults(tmp_path / "images", ttl=60, most_bytes=1 << 20)
    async with http.post(f"{router}/models/{ADAPTER}", data="a cat") as response:
        assert response.status == 200
        image, job = await response.read(), response.headers["X-Job-Id"]
    async with http.get(f"{router}/jobs/{job}/image") as response:
        assert await response.read() == image
    (path,) = (tmp_path / "images").glob("*-*")
    path.unlink()
    async with http.get(f"{router}/jobs/{job}/image") as response:
        assert (response.status, response.headers["X-Error-Code"]) == (410, "result_gone")
    assert await redis.keys("*:blob*") == []
