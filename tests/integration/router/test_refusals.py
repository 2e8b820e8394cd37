import io
import time

import huggingface_hub
import pytest

from deploy.local_hub.faults import FaultRule
from router.app import LARGEST_BODY
from shared.errors import ErrorCode
from shared.jobs import JobError
from shared.pools import PoolDirectory
from shared.queue.keys import BaseKeys
from shared.queue.terms import QueueSettings
from shared.refs import base_tag
from tests.builders import BASE, a_worker
from tests.integration.router.conftest import ADAPTER, DISABLED, LANGUAGE, OTHER_BASE, SEVERAL


async def refusal(http, url, status, code, method="POST", **options):
    options.setdefault("data", None if method != "POST" or "json" in options else "a cat")
    async with http.request(method, url, **options) as response:
        body = await response.json()
    assert (response.status, body["error_type"]) == (status, code), body
    assert isinstance(body["error"], str)
    assert response.headers["X-Error-Code"] == code
    assert response.headers["X-Error-Message"]
    assert response.headers["X-Request-Id"]
    assert "Traceback" not in body["error"]
    return response, body


async def test_an_unknown_id(http, router, worker):
    _, body = await refusal(http, f"{router}/models/nobody/nothing", 404, "repo_not_found")
    assert "private: send a token" in body["error"]


async def test_a_disabled_repository(http, router, worker):
    await refusal(http, f"{router}/models/{DISABLED}", 403, "repo_forbidden")


async def test_an_unsupported_repository(http, router, worker):
    _, body = await refusal(http, f"{router}/models/{LANGUAGE}", 422, "unsupported_model")
    assert "language model" in body["error"]


async def test_several_weight_files(http, router, worker):
    _, body = await refusal(http, f"{router}/models/{SEVERAL}", 422, "ambiguous_weights")
    assert set(body["choices"]) == {"day.safetensors", "night.safetensors"}


async def test_a_wrong_field(http, router, worker):
    wrong = {"inputs": "a", "parameters": {"width": "wide"}}
    _, body = await refusal(http, f"{router}/models/{ADAPTER}", 422, "invalid_request", json=wrong)
    assert body["field"] == "parameters.width"


async def test_a_malformed_id(http, router, worker):
    _, body = await refusal(http, f"{router}/models/gpt2", 422, "invalid_request")
    assert body["field"] == "model"


async def test_an_unknown_revision(http, router, worker):
    url = f"{router}/models/{ADAPTER}"
    for revision in ("nope", "..", "."):
        body = {"inputs": "a", "parameters": {"revision": revision}}
        _, refused = await refusal(http, url, 422, "invalid_request", json=body)
        assert refused["field"] == "parameters.revision"
        assert refused["error"].startswith(f"parameters.revision: {ADAPTER} has no")
    other = {"inputs": "a", "parameters": {"loras": [{"model": ADAPTER, "revision": "nope"}]}}
    _, refused = await refusal(http, f"{router}/models/{BASE}", 422, "invalid_request", json=other)
    assert refused["field"] == "parameters.loras[0].revision"
    _, described = await refusal(http, url, 422, "invalid_request", "GET", params={"revision": "nope"})
    assert described["field"] == "revision"


@pytest.mark.parametrize(
    ("revision", "problem"), [("", "is empty"), (" ", "is empty"), ("a" * 256, "at most 255 characters")]
)
async def test_a_revision_that_cannot_be_one_is_named_by_both_methods(
    http, router, worker, revision, problem
):
    body = {"inputs": "a", "parameters": {"revision": revision}}
    url = f"{router}/models/{ADAPTER}"
    _, drawn = await refusal(http, url, 422, "invalid_request", json=body)
    _, described = await refusal(http, url, 422, "invalid_request", "GET", params={"revision": revision})

    assert drawn["field"] == "parameters.revision"
    assert described["field"] == "revision"
    assert problem in drawn["error"]
    assert problem in described["error"]


async def test_a_base_runs_at_its_own_commit(http, router, worker):
    body = {"inputs": "a", "parameters": {"revision": "f" * 40}}
    _, said = await refusal(http, f"{router}/models/{BASE}", 422, "invalid_request", json=body)
    assert worker.info.base_revision in said["error"]


async def test_no_form_of_answer_is_acceptable(http, router, worker):
    headers = {"Accept": "text/html"}
    await refusal(http, f"{router}/models/{ADAPTER}", 406, "invalid_request", headers=headers)


async def test_a_base_that_nobody_serves(http, router, worker):
    response, body = await refusal(http, f"{router}/models/{OTHER_BASE}", 503, "no_pool_for_base")
    assert "some/flux" in body["error"]
    assert BASE in body["error"]
    assert int(response.headers["Retry-After"]) > 0


async def test_no_base_runs(http, router):
    _, body = await refusal(http, f"{router}/models/{ADAPTER}", 503, "no_pool_for_base")
    assert "no base runs now" in body["error"]


async def test_the_hub_fails(http, router, worker, hub):
    hub.faults.replace([FaultRule(status=500)])
    response, _ = await refusal(http, f"{router}/models/{ADAPTER}", 503, "hub_unavailable")
    assert "Retry-After" in response.headers
    hub.faults.replace([])
    async with http.post(f"{router}/models/{ADAPTER}", data="a cat") as response:
        assert response.status == 200


async def test_the_hub_limits_our_rate(http, router, worker, hub):
    hub.faults.replace([FaultRule(status=429)])
    await refusal(http, f"{router}/models/{ADAPTER}", 503, "hub_unavailable")


async def test_the_hub_s_client_is_told_to_stay_offline(http, router, worker, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    await refusal(http, f"{router}/models/{ADAPTER}", 503, "hub_unavailable")
    async with http.get(f"{router}/metrics") as response:
        assert 'warmbase_hub_requests_total{code="error",endpoint="metadata"} 1.0' in await response.text()


async def test_a_full_queue(http, router, redis):
    await PoolDirectory(redis).announce(a_worker(), 60.0)
    most = QueueSettings().max_waiting
    later = time.time() + 3600
    await redis.zadd(BaseKeys(base_tag(BASE)).deadlines, {f"waiting-{job}": later for job in range(most)})
    response, body = await refusal(http, f"{router}/models/{ADAPTER}", 429, "queue_full")
    assert int(response.headers["Retry-After"]) >= 1
    assert BASE in body["error"]


@pytest.mark.parametrize(
    ("code", "status"),
    [(ErrorCode.ADAPTER_REJECTED, 422), (ErrorCode.WORKER_FAULT, 500), (ErrorCode.INVALID_REQUEST, 422)],
)
async def test_a_job_that_its_worker_fails(http, router, worker, code, status):
    worker.error = JobError(code=code, message="the width has to be a multiple of 8")
    response, body = await refusal(http, f"{router}/models/{ADAPTER}", status, code)
    assert response.headers["X-Job-Id"] == worker.jobs[0].id
    assert ("multiple of 8" in body["error"]) is (code is not ErrorCode.WORKER_FAULT)


async def test_an_image_whose_bytes_are_not_those_of_the_record(http, router, worker):
    worker.damage = b"\x89PNG something else"
    _, body = await refusal(http, f"{router}/models/{ADAPTER}", 500, "worker_fault")
    assert "damaged" in body["error"]


async def test_an_answer_that_comes_too_late(http, start_router, worker):
    router = await start_router(WARMBASE_REQUEST_TIMEOUT="0.5")
    worker.free.clear()
    await refusal(http, f"{router}/models/{ADAPTER}", 504, "job_expired")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("DELETE", "/health", 405), ("PUT", "/models/a/b", 405)],
)
async def test_the_framework_s_own_refusals_have_the_same_shape(http, router, method, path, status):
    response, _ = await refusal(http, f"{router}{path}", status, "invalid_request", method=method)
    assert ("Allow" in response.headers) is (status == 405)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_what_its_encoding_says(http, router, encoding):
    headers = {"Content-Encoding": encoding}
    _, body = await refusal(
        http, f"{router}/models/{ADAPTER}", 422, "invalid_request", data=b'{"inputs": "a"}', headers=headers
    )
    assert body["field"] == "body"


async def test_a_parameter_that_the_worker_refuses_is_named(http, router, worker):
    worker.error = JobError(
        code=ErrorCode.INVALID_REQUEST, message="parameters.width: odd", field="parameters.width"
    )
    _, body = await refusal(http, f"{router}/models/{ADAPTER}", 422, "invalid_request")
    assert body["field"] == "parameters.width"


async def test_a_body_that_is_too_large(http, router):
    _, body = await refusal(
        http, f"{router}/models/{ADAPTER}", 413, "invalid_request", data=io.BytesIO(bytes(13 << 20))
    )
    assert body["field"] == "body"
    assert f"more than {LARGEST_BODY} bytes" in body["error"]


async def test_a_token_that_cannot_be_one(http, router, worker):
    headers = {"Authorization": "Bearer a b"}
    _, body = await refusal(http, f"{router}/models/{ADAPTER}", 422, "invalid_request", headers=headers)
    assert body["field"] == "Authorization"
