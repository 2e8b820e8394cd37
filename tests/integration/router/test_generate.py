import asyncio
import base64
import io
import json

import pytest
from huggingface_hub import InferenceClient
from PIL import Image

from deploy.local_hub.faults import FaultRule
from shared.refs import RepoId
from tests.builders import BASE, COMMIT, a_worker
from tests.integration.router.conftest import ADAPTER, FEW_STEP, GGUF, OTHER_BASE, SEVERAL


async def test_an_adapter_is_drawn_with(http, router, worker):
    parameters = {"seed": 7, "width": 64, "lora_scale": 0.5}
    body = {"inputs": "a red circle", "parameters": parameters}
    async with http.post(f"{router}/models/{ADAPTER}", json=body) as response:
        image = await response.read()

    assert response.status == 200, image
    assert response.content_type == "image/png"
    assert Image.open(io.BytesIO(image)).size == (1, 1)
    (job,) = worker.jobs
    assert (job.base, job.params.prompt, job.params.seed, job.params.width) == (BASE, "a red circle", 7, 64)
    assert [(ref.repo, ref.scale) for ref in job.adapters] == [(ADAPTER, 0.5)]
    assert job.sealed_token is None
    assert response.headers["X-Job-Id"] == job.id
    assert response.headers["X-Warmbase-Base"] == BASE
    assert response.headers["X-Warmbase-Base-Commit"] == COMMIT
    assert response.headers["X-Warmbase-Commit"] == job.adapters[0].revision
    assert response.headers["X-Warmbase-Seed"] == "7"
    assert json.loads(response.headers["X-Warmbase-Adapters"])[0]["repo"] == ADAPTER
    assert float(response.headers["X-Compute-Time"]) == pytest.approx(0.214)
    assert response.headers["X-Request-Id"]


async def test_a_quantised_copy_draws_with_the_originals_adapters_and_says_that_it_did(http, router, worker):
    original = RepoId("some/flux")
    worker.info = a_worker(copy_of=original)
    await worker.pools.announce(worker.info, 60.0)
    async with http.post(f"{router}/models/{OTHER_BASE}", data="a cat") as response:
        assert response.status == 200, await response.text()
    assert worker.jobs[0].base == BASE
    assert response.headers["X-Warmbase-Base"] == BASE

    async with http.get(f"{router}/models/{OTHER_BASE}") as response:
        (pool,) = (await response.json())["served_by"]
    assert (pool["base"], pool["copy_of"]) == (BASE, original)
    async with http.get(f"{router}/info") as response:
        workers = (await response.json())["bases"][0]["workers"]
    assert original in {each["copy_of"] for each in workers}


async def test_what_the_hub_knows_as_no_model_is_one_while_a_pool_serves_it(http, router, worker):
    gguf = a_worker(base=RepoId(GGUF), denoiser_file="model.gguf", other_parts=f"some/flux@{COMMIT}")
    await worker.pools.announce(gguf, 60.0)
    async with http.get(f"{router}/models/{GGUF}", params={"revision": "main"}) as response:
        assert (response.status, (await response.json())["field"]) == (422, "revision")
    async with http.get(f"{router}/models/{GGUF}") as response:
        view = await response.json()
    assert (view["kind"], view["commit"], view["served"]) == ("full", COMMIT, True)


async def test_a_base_that_runs_is_described_without_the_hub_as_it_is_drawn(http, router, worker):
    name = "alice/on-no-hub"
    await worker.pools.announce(a_worker(base=RepoId(name)), 60.0)
    async with http.get(f"{router}/models/{name}") as response:
        assert (response.status, (await response.json())["kind"]) == (200, "full")


async def test_a_base_is_drawn_with_without_asking_the_hub(http, router, worker, hub):
    async with http.post(f"{router}/models/{BASE}", data="a cat") as response:
        assert response.status == 200, await response.text()

    assert worker.jobs[0].adapters == ()
    assert response.headers["X-Warmbase-Commit"] == COMMIT
    assert hub.requests.count() == 0


@pytest.mark.parametrize(
    ("accept", "format_"), [("image/webp", "WEBP"), ("image/jpeg", "JPEG"), ("*/*", "PNG")]
)
async def test_the_client_chooses_the_format(http, router, worker, accept, format_):
    async with http.post(f"{router}/models/{BASE}", data="a cat", headers={"Accept": accept}) as response:
        image = Image.open(io.BytesIO(await response.read()))

    assert image.format == format_
    assert response.content_type == f"image/{format_.lower()}"


async def test_json_holds_the_image_and_its_seed(http, router, worker):
    headers = {"Accept": "application/json"}
    async with http.post(f"{router}/models/{BASE}", data="a cat", headers=headers) as response:
        body = await response.json()

    assert base64.b64decode(body["data"][0]["b64_json"]).startswith(b"\x89PNG")
    assert body["seed"] == worker.jobs[0].params.seed


async def test_an_open_seed_is_fixed_by_the_router(http, router, worker):
    for _ in range(2):
        async with http.post(f"{router}/models/{BASE}", data="a cat") as response:
            assert response.headers["X-Warmbase-Seed"] == str(worker.jobs[-1].params.seed)
    one, two = (job.params.seed for job in worker.jobs)
    assert one != two


async def test_a_card_s_recommendation_is_followed_unless_the_request_says_otherwise(http, router, worker):
    for parameters in ({}, {"num_inference_steps": 9}):
        body = {"inputs": "a cat", "parameters": parameters}
        async with http.post(f"{router}/models/{FEW_STEP}", json=body) as response:
            assert response.status == 200, await response.text()

    assert [job.params.steps for job in worker.jobs] == [4, 9]
    assert [job.params.guidance_scale for job in worker.jobs] == [1.0, 1.0]


async def test_several_adapters_with_their_files_and_strengths(http, router, worker):
    loras = [{"path": SEVERAL, "weight": -1, "weight_name": "night.safetensors"}]
    body = {"inputs": "a cat", "parameters": {"loras": loras}}
    async with http.post(f"{router}/models/{ADAPTER}", json=body) as response:
        ran = json.loads(response.headers["X-Warmbase-Adapters"])

    assert [(item["repo"], item["scale"]) for item in ran] == [(ADAPTER, 1.0), (SEVERAL, -1.0)]
    assert ran[1]["weight_name"] == "night.safetensors"


async def test_the_old_header_names_an_adapter_on_a_base(http, router, worker):
    async with http.post(f"{router}/models/{BASE}", data="a cat", headers={"lora": ADAPTER}) as response:
        assert response.status == 200, await response.text()

    assert worker.jobs[0].adapters[0].repo == ADAPTER


async def test_a_thousand_requests_for_one_new_id_make_one_call_to_the_hub(http, router, worker, hub):
    async def describe():
        async with http.get(f"{router}/models/{ADAPTER}") as response:
            return response.status

    assert set(await asyncio.gather(*(describe() for _ in range(1000)))) == {200}
    assert hub.requests.count("/api/models/*") == 1


async def test_the_hub_may_go_away_once_an_id_is_known(http, start_router, worker, hub):
    router = await start_router(WARMBASE_METADATA_TTL="0.05")
    async with http.post(f"{router}/models/{ADAPTER}", data="a cat") as response:
        assert response.status == 200
    await asyncio.sleep(0.1)
    hub.faults.replace([FaultRule(status=500)])
    async with http.post(f"{router}/models/{ADAPTER}", data="a cat") as response:
        assert response.status == 200
    assert hub.requests.matching("/api/models/*")[-1].status == 500


async def test_the_real_client_gets_an_image(router, worker):
    def draw():
        client = InferenceClient(model=f"{router}/models/{ADAPTER}", timeout=60)
        return client.text_to_image("a cat", negative_prompt="dog", width=64, height=64, seed=3)

    image = await asyncio.to_thread(draw)

    assert image.size == (1, 1)
    assert worker.jobs[0].params.negative_prompt == "dog"


async def test_a_request_id_is_kept_if_it_is_one(http, router):
    for sent, kept in (("my-id.1", True), ("x" * 200, False), ("a b", False)):
        async with http.get(f"{router}/health", headers={"X-Request-Id": sent}) as response:
            assert (response.headers["X-Request-Id"] == sent) is kept


async def test_what_an_id_is_and_why(http, router, worker):
    async with http.get(f"{router}/models/{ADAPTER}") as response:
        found = await response.json()

    assert (found["kind"], found["base"], found["served"]) == ("lora", BASE, True)
    assert found["weight_name"] == "pytorch_lora_weights.safetensors"
    assert found["trigger"] == "crayon"
    assert len(found["commit"]) == 40
    assert any("base" in line for line in found["evidence"])
