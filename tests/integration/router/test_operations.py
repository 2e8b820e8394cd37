import re

from openapi_spec_validator import validate

from tests.builders import BASE, WORKER
from tests.integration.router.conftest import ADAPTER, OTHER_BASE


async def test_index_health_ready_and_the_document(http, router, worker):
    for path in ("/", "/health", "/ready"):
        async with http.get(f"{router}{path}") as response:
            assert response.status == 200
            assert isinstance(await response.json(), dict)
    async with http.get(f"{router}/openapi.json") as response:
        validate(await response.json())


async def test_info_names_bases_workers_limits_and_the_hub(http, router, worker):
    async with http.get(f"{router}/info") as response:
        info = await response.json()

    assert [pool["base"] for pool in info["bases"]] == [BASE]
    assert info["bases"][0]["workers"][0]["id"] == WORKER
    assert info["limits"]["max_steps"] == 150
    assert info["hub"] == "127.0.0.1"
    assert info["version"]


async def scrape(http, router):
    async with http.get(f"{router}/metrics") as response:
        assert response.status == 200
        return await response.text()


async def test_metrics_count_what_happened_without_adapter_ids(http, router, worker):
    for model in (ADAPTER, BASE, OTHER_BASE, "nobody/nothing"):
        async with http.post(f"{router}/models/{model}", data="a cat"):
            pass
    text = await scrape(http, router)

    assert f'warmbase_jobs_enqueued_total{{base_model="{BASE}",kind="lora"}} 1.0' in text
    assert f'warmbase_jobs_enqueued_total{{base_model="{BASE}",kind="base"}} 1.0' in text
    assert f'warmbase_jobs_finished_total{{base_model="{BASE}",outcome="succeeded",reason=""}} 2.0' in text
    assert f'warmbase_queue_depth{{base_model="{BASE}"}} 0.0' in text
    assert f'warmbase_jobs_running{{base_model="{BASE}"}} 0.0' in text
    assert f'warmbase_queue_oldest_age_seconds{{base_model="{BASE}"}} 0.0' in text
    assert 'warmbase_classify_total{verdict="lora"} 2.0' in text
    assert 'warmbase_hub_requests_total{code="200",endpoint="metadata"} 2.0' in text
    assert re.search(
        r'warmbase_http_requests_total\{code="404",method="POST",route="/models/\{model\}"\} 1', text
    )
    assert "warmbase_job_e2e_seconds_bucket" in text
    assert "warmbase_http_request_duration_seconds_bucket" in text
    assert "warmbase_hub_request_seconds_bucket" in text
    assert "process_resident_memory_bytes" in text
    assert all(name not in text for name in ("crayon", "flux", "nobody"))


async def test_a_base_that_is_no_longer_served_leaves_the_gauges(http, router, worker):
    assert "warmbase_queue_depth{" in await scrape(http, router)
    worker.info = None
    await worker.pools._redis.flushall()
    assert "warmbase_queue_depth{" not in await scrape(http, router)
