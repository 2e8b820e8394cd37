import aiohttp

from tests.builders import BASE
from worker.metrics import WorkerMetrics
from worker.probes import Readiness, serve_probes


async def test_a_worker_is_alive_from_the_start_and_ready_when_it_says_so() -> None:
    readiness = Readiness(base=BASE, stage="loading")
    async with (
        serve_probes("127.0.0.1", 0, readiness, WorkerMetrics(BASE)) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        async with client.get("/health") as answer:
            assert answer.status == 200
        async with client.get("/ready") as answer:
            assert answer.status == 503
            assert await answer.json() == {"ready": False, "stage": "loading", "base": BASE}
        async with client.get("/metrics") as answer:
            assert 'warmbase_worker_ready{base_model="warmbase/shapes-xl"} 0.0' in await answer.text()

        readiness.ready, readiness.stage = True, "ready"
        async with client.get("/ready") as answer:
            assert answer.status == 200
        async with client.get("/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert 'warmbase_worker_ready{base_model="warmbase/shapes-xl"} 1.0' in await answer.text()
