import asyncio

from shared.errors import ErrorCode
from shared.jobs import JobError, new_job_id
from tests.builders import BASE
from tests.integration.router.conftest import ADAPTER, eventually

ASYNC = {"Prefer": "respond-async"}


async def begin(http, router, model=ADAPTER):
    async with http.post(f"{router}/models/{model}", data="a cat", headers=ASYNC) as response:
        view = await response.json()
    assert response.status == 202, view
    assert response.headers["Location"] == f"/jobs/{view['id']}"
    return view


async def look(http, router, job):
    async with http.get(f"{router}/jobs/{job}") as response:
        assert response.status == 200
        return await response.json()


async def ended(http, router, job):
    async def has_ended():
        return (await look(http, router, job))["status"] not in {"queued", "running"}

    await eventually(has_ended)
    return await look(http, router, job)


async def test_a_job_is_begun_at_one_router_and_answered_by_another(http, start_router, worker):
    one, two = await start_router(), await start_router()
    begun = await begin(http, one)
    view = await ended(http, two, begun["id"])
    async with http.get(f"{two}/jobs/{begun['id']}/image") as response:
        image = await response.read()

    assert begun["status"] in {"queued", "running", "succeeded"}
    assert view["status"] == "succeeded"
    assert view["result"]["X-Warmbase-Seed"] == str(worker.jobs[0].params.seed)
    assert view["timings"]["swap"] == 0.004
    assert response.status == 200
    assert response.headers["X-Job-Id"] == begun["id"]
    assert image.startswith(b"\x89PNG")


async def test_a_running_job_shows_its_progress_and_has_no_image_yet(http, router, worker):
    worker.free.clear()
    job = (await begin(http, router))["id"]

    async def shows_progress():
        return (await look(http, router, job))["progress"] == {"step": 1, "total": 20}

    await eventually(shows_progress)
    view = await look(http, router, job)
    async with http.get(f"{router}/jobs/{job}/image") as response:
        assert response.status == 409

    assert view["status"] == "running"


async def test_a_waiting_job_is_cancelled_at_another_router(http, start_router, worker):
    one, two = await start_router(), await start_router()
    worker.free.clear()
    running = (await begin(http, one))["id"]
    await eventually(lambda: worker.has_claimed(1))
    waiting = (await begin(http, one))["id"]
    async with http.delete(f"{two}/jobs/{waiting}") as response:
        assert (await response.json())["status"] == "cancelled"
    async with http.get(f"{two}/jobs/{waiting}/image") as response:
        assert response.status == 409
        assert response.headers["X-Error-Code"] == "job_cancelled"

    async with http.delete(f"{two}/jobs/{running}") as response:
        assert response.status == 200
    assert (await ended(http, one, running))["status"] == "cancelled"
    await eventually(worker.has_cancelled)
    assert worker.cancelled == [running]


async def test_an_ended_job_stays_as_it_is(http, router, worker):
    job = (await begin(http, router))["id"]
    await ended(http, router, job)
    async with http.delete(f"{router}/jobs/{job}") as response:
        assert (await response.json())["status"] == "succeeded"


async def test_an_image_that_has_expired_is_gone(http, router, worker, redis):
    job = (await begin(http, router))["id"]
    await ended(http, router, job)
    for key in await redis.keys("*:blob:*"):
        await redis.delete(key)
    async with http.get(f"{router}/jobs/{job}/image") as response:
        assert response.status == 410
        assert response.headers["X-Error-Code"] == "result_gone"


async def test_a_job_that_succeeded_has_made_all_its_steps_and_names_its_base(http, router, worker):
    view = await ended(http, router, (await begin(http, router))["id"])
    assert view["progress"]["step"] == view["progress"]["total"] > 0
    assert view["result"]["X-Warmbase-Base"] == BASE


async def test_a_failed_job_says_why(http, router, worker):
    worker.error = JobError(code=ErrorCode.ADAPTER_REJECTED, message="shapes do not fit")
    view = await ended(http, router, (await begin(http, router))["id"])
    async with http.get(f"{router}/jobs/{view['id']}/image") as response:
        assert response.status == 422

    assert view["error"] == {"code": "adapter_rejected", "message": "shapes do not fit"}


async def test_unknown_jobs_are_not_found(http, router):
    for job in (new_job_id(BASE), "x", "..%2F..", "a" * 500):
        for method, path in (("GET", ""), ("GET", "/image"), ("DELETE", "")):
            async with http.request(method, f"{router}/jobs/{job}{path}") as response:
                assert response.status == 404


async def test_a_client_that_leaves_cancels_its_job(http, router, worker):
    worker.free.clear()
    request = asyncio.create_task(http.post(f"{router}/models/{ADAPTER}", data="a cat"))
    await eventually(lambda: worker.has_claimed(1))
    request.cancel()

    await eventually(worker.has_cancelled)


async def test_a_cancelled_job_answers_the_one_who_waits(http, start_router, worker):
    one, two = await start_router(), await start_router()
    worker.free.clear()
    request = asyncio.create_task(http.post(f"{one}/models/{ADAPTER}", data="a cat"))
    await eventually(lambda: worker.has_claimed(1))
    async with http.delete(f"{two}/jobs/{worker.jobs[0].id}"):
        pass
    async with await request as response:
        assert response.status == 409
        assert response.headers["X-Error-Code"] == "job_cancelled"
