"""Requests with a picture: how it comes, where it waits, and what happens when it is gone."""

import asyncio
import base64
import errno
import hashlib
import io
import json
from pathlib import Path

import pytest
from huggingface_hub import InferenceClient
from PIL import Image

from shared.errors import ErrorCode
from shared.jobs import JobError
from shared.queue.terms import Mode
from shared.redis_client import command_client
from shared.results.file_store import FileResults
from shared.results.redis_store import RedisResults
from shared.results.store import NO_ROOM, source_name
from tests.builders import BASE, a_worker
from tests.integration.router.conftest import ADAPTER, eventually, picture
from tests.servers import Servers

PICTURE = picture("image/png")
TEXT = base64.b64encode(PICTURE).decode()


async def post(http, router, model=ADAPTER, **options):
    async with http.post(f"{router}/models/{model}", **options) as response:
        return response, await response.read()


async def test_a_picture_reaches_the_worker_and_its_job_only_names_it(http, router, worker, redis):
    parameters = {"prompt": "a cat", "strength": 0.6, "num_inference_steps": 10, "seed": 7}
    response, body = await post(http, router, json={"inputs": TEXT, "parameters": parameters})

    assert response.status == 200, body
    (job,) = worker.jobs
    assert worker.sources == [PICTURE]
    assert (job.params.prompt, job.params.strength, job.params.seed) == ("a cat", 0.6, 7)
    assert job.params.source == hashlib.sha256(PICTURE).hexdigest()
    assert (job.params.width, job.params.height) == (None, None)
    record = b"".join((await redis.hgetall((await redis.keys(f"*:job:{job.id}"))[0])).values())
    assert PICTURE not in record
    assert TEXT.encode() not in record


async def test_the_real_client_turns_a_picture_into_another(router, worker):
    client = InferenceClient(model=f"{router}/models/{ADAPTER}", timeout=60)

    def draw():
        every = client.image_to_image(
            PICTURE,
            prompt="a cat",
            negative_prompt="a dog",
            num_inference_steps=10,
            guidance_scale=2.0,
            target_size={"width": 64, "height": 32},
            strength=0.6,
            seed=3,
        )
        return every, client.image_to_image(PICTURE), client.image_to_image(PICTURE, strength=0.5)

    images = await asyncio.to_thread(draw)

    assert [image.size for image in images] == [(1, 1)] * 3
    assert worker.sources == [PICTURE] * 3
    every, bare, without_prompt = (job.params for job in worker.jobs)
    assert (every.prompt, every.negative_prompt, every.strength, every.seed) == ("a cat", "a dog", 0.6, 3)
    assert (every.width, every.height, every.steps, every.guidance_scale) == (64, 32, 10, 2.0)
    assert (bare.prompt, bare.strength) == ("", None)
    assert (without_prompt.prompt, without_prompt.strength) == ("", 0.5)


@pytest.mark.parametrize("media", ["image/png", "image/jpeg", "image/webp"])
async def test_the_bytes_of_a_picture_may_be_the_body(http, router, worker, media):
    data = picture(media)
    response, body = await post(http, router, data=data, headers={"Content-Type": media})

    assert response.status == 200, body
    assert worker.sources == [data]


async def test_a_large_picture_fits_and_a_larger_one_is_told_so(http, router, worker):
    data = PICTURE + bytes((8 << 20) - len(PICTURE))
    sent = {"inputs": base64.b64encode(data).decode(), "parameters": {"prompt": "a cat"}}
    json_type = {"Content-Type": "application/json"}
    response, body = await post(http, router, data=io.BytesIO(json.dumps(sent).encode()), headers=json_type)
    assert response.status == 200, body
    assert worker.sources == [data]

    response, body = await post(http, router, data=io.BytesIO(data + b"x"))
    assert response.status == 422
    assert b'"field": "inputs"' in body


async def test_a_job_that_is_asked_for_later_starts_from_its_picture(http, router, worker):
    response, _ = await post(http, router, data=PICTURE, headers={"Prefer": "respond-async"})
    assert response.status == 202

    async def is_drawn():
        return worker.sources == [PICTURE]

    await eventually(is_drawn)


async def test_one_key_stands_for_one_picture(http, router, worker):
    key = {"Idempotency-Key": "one"}
    first, _ = await post(http, router, data=PICTURE, headers=key)
    again, _ = await post(http, router, data=PICTURE, headers=key)
    other, body = await post(http, router, data=picture("image/webp"), headers=key)

    assert first.headers["X-Job-Id"] == again.headers["X-Job-Id"]
    assert len(worker.jobs) == 1
    assert other.status == 422
    assert b'"field": "Idempotency-Key"' in body


async def test_the_same_picture_is_kept_once(http, router, worker, redis):
    for prompt in ("a cat", "a dog"):
        body = {"inputs": TEXT, "parameters": {"prompt": prompt}}
        response, _ = await post(http, router, json=body)
        assert response.status == 200
    assert len(await redis.keys(f"*:blob:{source_name(BASE, worker.jobs[0].params.source)}")) == 1
    assert len(await redis.keys("*:blob:*")) == 3


async def test_a_picture_whose_job_is_not_taken_takes_nobody_s_place(http, router, worker, redis, queue):
    await queue.set_mode(Mode.DRAINING)
    for headers in ({}, {"Prefer": "respond-async"}):
        response, body = await post(http, router, data=PICTURE, headers=headers)
        assert (response.status, b"drained" in body) == (503, True)
    assert await redis.keys("*:blob:*") == []
    async with http.get(f"{router}/metrics") as response:
        assert "warmbase_jobs_finished_total{" not in await response.text()


class ForgettingResults:
    """Loses the first `times` pictures that are asked for."""

    def __init__(self, redis, results, times):
        self._redis = redis
        self._results = results
        self._left = times

    async def get(self, name):
        if self._left:
            self._left -= 1
            await self._redis.delete(*await self._redis.keys(f"*:blob:{name}"))
        return await self._results.get(name)

    async def put(self, lease, data):
        return await self._results.put(lease, data)


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "one"}])
async def test_a_picture_that_is_gone_is_sent_once_more(http, router, worker, redis, key):
    worker.results = ForgettingResults(redis, worker.results, 1)
    response, body = await post(http, router, data=PICTURE, headers=key)

    assert response.status == 200, body
    first, second = worker.jobs
    assert first.id != second.id
    assert first.params == second.params
    assert worker.sources == [PICTURE]
    assert response.headers["X-Job-Id"] == second.id


async def test_after_the_second_time_it_is_said_to_be_gone(http, router, worker, redis):
    worker.results = ForgettingResults(redis, worker.results, 2)
    response, body = await post(http, router, data=PICTURE)

    assert (response.status, response.headers["X-Error-Code"]) == (410, "result_gone")
    assert b"send the request again" in body
    assert len(worker.jobs) == 2


async def test_a_job_that_redis_forgot_with_its_picture_is_drawn_all_the_same(http, router, worker, redis):
    worker.free.clear()
    asking = asyncio.create_task(post(http, router, data=PICTURE))
    await eventually(lambda: worker.has_claimed(1))
    await redis.flushdb()
    worker.free.set()
    response, body = await asking

    assert response.status == 200, body
    assert worker.sources[-1] == PICTURE


async def test_a_picture_that_the_worker_refuses_is_a_field_of_the_request(http, router, worker):
    worker.error = JobError(code=ErrorCode.INVALID_REQUEST, message="inputs: cut off", field="inputs")
    response, body = await post(http, router, data=PICTURE)

    assert response.status == 422
    assert b'"field": "inputs"' in body


async def test_a_base_that_draws_from_noise_only_refuses_before_anything_is_kept(http, router, redis, worker):
    worker.stopped = True
    await worker.pools.withdraw(worker.info)
    await worker.pools.announce(a_worker(image_to_image=False), 60.0)
    await asyncio.sleep(0.6)
    response, body = await post(http, router, BASE, data=PICTURE)

    assert response.status == 422
    assert f"{BASE} does not start from a picture".encode() in body
    assert await redis.keys("*:blob:*") == []


async def test_pictures_may_wait_in_files(http, start_router, worker, tmp_path, redis):
    router = await start_router(WARMBASE_RESULTS_URL=f"file://{tmp_path}/images")
    worker.results = FileResults(tmp_path / "images", ttl=60, most_bytes=1 << 20)
    response, body = await post(http, router, data=PICTURE)

    assert response.status == 200, body
    assert Image.open(io.BytesIO(body)).size == (1, 1)
    assert (tmp_path / "images" / source_name(BASE, worker.jobs[0].params.source)).read_bytes() == PICTURE
    assert await redis.keys("*:blob*") == []


@pytest.fixture
def small_server(tmp_path):
    """A server for pictures that has no memory left."""
    servers = Servers(tmp_path)
    yield servers.start('save ""', "maxmemory 1", "maxmemory-policy noeviction")
    servers.kill_all()


LATER = {"Prefer": "respond-async"}


async def is_told_that_there_is_no_room(http, router, **options):
    response, body = await post(http, router, **options)
    assert (response.status, response.headers["X-Error-Code"]) == (503, "no_room"), body
    assert int(response.headers["Retry-After"]) > 0
    assert json.loads(body)["error_type"] == "no_room"
    assert "no room for the picture now" in json.loads(body)["error"]


@pytest.mark.parametrize("headers", [{}, LATER], ids=["waits", "asks later"])
async def test_a_store_that_is_full_takes_no_picture_for_now(
    http, start_router, worker, small_server, headers
):
    router = await start_router(WARMBASE_RESULTS_URL=small_server.url)
    await is_told_that_there_is_no_room(http, router, data=PICTURE, headers=headers)
    assert worker.jobs == []
    assert await worker.sees_waiting(0)

    small_server.client.config_set("maxmemory", 0)
    async with command_client(small_server.url) as store:
        worker.results = RedisResults(store, ttl=60, most_bytes=1 << 20)
        response, body = await post(http, router, data=PICTURE)
    assert response.status == 200, body


async def test_a_disk_that_is_full_takes_no_picture_for_now(
    http, start_router, worker, tmp_path, monkeypatch
):
    router = await start_router(WARMBASE_RESULTS_URL=f"file://{tmp_path}/images")
    worker.results = FileResults(tmp_path / "images", ttl=60, most_bytes=1 << 20)

    def no_space(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", no_space)
        await is_told_that_there_is_no_room(http, router, data=PICTURE)
    assert worker.jobs == []

    response, body = await post(http, router, data=PICTURE)
    assert response.status == 200, body


async def test_a_picture_that_no_room_would_do_for_is_a_field_of_the_request(http, start_router, worker):
    most_bytes = len(PICTURE) - 1
    router = await start_router(WARMBASE_RESULTS_BYTES=str(most_bytes))
    response, body = await post(http, router, data=PICTURE)

    assert response.status == 422, body
    assert json.loads(body)["field"] == "inputs"
    assert f"at most {most_bytes} bytes" in json.loads(body)["error"]


async def test_a_job_whose_image_found_no_room_is_told_in_the_same_words(http, router, worker):
    worker.error = JobError(code=ErrorCode.NO_ROOM, message=NO_ROOM)
    response, body = await post(http, router, data=b"a cat")

    assert (response.status, response.headers["X-Error-Code"]) == (503, "no_room")
    assert int(response.headers["Retry-After"]) > 0
    assert NO_ROOM.encode() in body
