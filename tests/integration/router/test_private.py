import logging

import pytest

from shared.sealing import Sealer
from tests.builders import BASE
from tests.integration.router.conftest import ADAPTER, GATED, PRIVATE, SECRET


async def draw(http, router, model, token=None, **options):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with http.post(f"{router}/models/{model}", data="a cat", headers=headers, **options) as response:
        kind = response.headers.get("X-Error-Code")
        return response.status, kind, await response.read()


@pytest.mark.parametrize("model", [GATED, PRIVATE])
async def test_the_owner_s_token_opens_and_travels_sealed(http, router, worker, model):
    status, _, body = await draw(http, router, model, "hf_alice")

    assert status == 200, body
    sealed = worker.jobs[0].sealed_token
    assert sealed is not None
    assert "hf_alice" not in sealed
    assert Sealer(SECRET).open(sealed, 60.0) == "hf_alice"


@pytest.mark.parametrize(
    ("attempt", "refusal"),
    [
        ((GATED, None), (403, "repo_forbidden")),
        ((GATED, "hf_bob"), (403, "repo_forbidden")),
        ((GATED, "hf_nobody"), (403, "repo_forbidden")),
        ((PRIVATE, None), (404, "repo_not_found")),
        ((PRIVATE, "hf_bob"), (404, "repo_not_found")),
        ((PRIVATE, "hf_nobody"), (404, "repo_not_found")),
    ],
)
async def test_nobody_else_gets_in_even_after_the_owner(http, router, worker, attempt, refusal):
    model, token = attempt
    await draw(http, router, model, "hf_alice")

    assert (await draw(http, router, model, token))[:2] == refusal
    assert len(worker.jobs) == 1


async def test_a_public_adapter_needs_no_token_and_sends_none(http, router, worker, hub):
    assert (await draw(http, router, ADAPTER, "hf_alice"))[0] == 200

    assert worker.jobs[0].sealed_token is None
    assert all(entry.user is None for entry in hub.requests.matching())


async def test_a_gated_adapter_beside_a_public_one_needs_its_token_too(http, router, worker):
    body = {"inputs": "a", "parameters": {"loras": [{"model": GATED}]}}
    for token, status in ((None, 403), ("hf_alice", 200)):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with http.post(f"{router}/models/{BASE}", json=body, headers=headers) as response:
            assert response.status == status


async def test_a_deployment_without_a_secret_says_so(http, start_router, worker):
    router = await start_router()
    status, code, body = await draw(http, router, GATED, "hf_alice")

    assert (status, code) == (403, "repo_forbidden")
    assert b"WARMBASE_SECRET" in body
    assert worker.jobs == []


async def test_authorisation_is_remembered_for_the_token_that_has_it(http, router, worker, hub):
    for _ in range(3):
        await draw(http, router, GATED, "hf_alice")

    assert hub.requests.count(f"/{GATED}/resolve/*", "HEAD") == 1


async def test_no_token_is_logged(http, router, worker, caplog):
    caplog.set_level(logging.DEBUG)
    for model in (GATED, PRIVATE, ADAPTER):
        await draw(http, router, model, "hf_alice")
        await draw(http, router, model, "hf_bob")

    assert caplog.records
    assert "hf_alice" not in str([vars(record) for record in caplog.records])
    assert "hf_bob" not in str([vars(record) for record in caplog.records])
