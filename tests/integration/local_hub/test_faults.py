"""The Hub made slow, broken and curt to order, and the count of what was asked of it."""

from asyncio import to_thread

import aiohttp
import pytest
from huggingface_hub.errors import HfHubHTTPError

from deploy.local_hub.faults import FaultRule
from deploy.local_hub.rate_limit import RateLimits
from deploy.local_hub.server import LocalHubConfig, serve


async def test_every_call_is_counted(adapter, hub, alice):
    await to_thread(alice.model_info, adapter, expand=["sha"])

    (call,) = hub.requests.matching("/api/models/*")
    assert (call.method, call.path, call.query) == ("GET", f"/api/models/{adapter}", "expand=sha")
    assert (call.user, call.status) == ("alice", 200)


async def test_a_failure_is_ordered_for_some_requests(adapter, hub, stranger):
    hub.faults.add(FaultRule(path="/api/models/*", status=503, times=2))

    for _ in range(2):
        with pytest.raises(HfHubHTTPError) as error:
            await to_thread(stranger.model_info, adapter)
        assert error.value.response.status_code == 503
    assert (await to_thread(stranger.model_info, adapter)).id == adapter


async def test_latency_is_ordered_by_path(adapter, hub, raw, fault_sleeps):
    hub.faults.add(FaultRule(path="*/tree/*", latency_s=2.5))

    await raw.get(f"/api/models/{adapter}")
    assert fault_sleeps == []
    answer = await raw.get(f"/api/models/{adapter}/tree/main")

    assert answer.status == 200
    assert fault_sleeps == [2.5]


async def test_a_slow_body_is_sent_in_parts(adapter, hub, raw, fault_sleeps):
    hub.faults.add(FaultRule(path="*/resolve/*", bytes_per_second=20))

    answer = await raw.get(f"/{adapter}/resolve/main/notes%20on%20style.txt")

    assert await answer.text() == "thick lines"
    assert fault_sleeps == [0.1, 0.1, 0.1, 0.1, 0.1, 0.05]


async def test_metadata_can_be_cut_short(adapter, hub, raw):
    hub.faults.add(FaultRule(path="/api/*", cut_after_bytes=10))

    async with raw.get(f"/api/models/{adapter}") as answer:
        assert answer.content_length > 10
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_a_cut_behind_the_end_changes_nothing(adapter, hub, raw):
    hub.faults.add(FaultRule(cut_after_bytes=11))

    answer = await raw.get(f"/{adapter}/resolve/main/notes%20on%20style.txt")

    assert await answer.text() == "thick lines"


async def test_another_process_orders_faults_and_counts(adapter, hub, raw):
    rule = {"path": "/api/models/*", "status": 500, "times": 1}
    ordered = await raw.put("/_faults", json={"rules": [rule]})
    assert await ordered.json() == {"rules": 1}

    assert (await raw.get(f"/api/models/{adapter}")).status == 500
    assert (await raw.get(f"/api/models/{adapter}")).status == 200
    await raw.get("/api/whoami-v2")
    counted = await (await raw.get("/_requests?path=/api/models/*")).json()

    assert counted["count"] == 2
    assert [request["status"] for request in counted["requests"]] == [500, 200]
    assert (await raw.delete("/_requests")).status == 204
    assert (await (await raw.get("/_requests")).json())["count"] == 0


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"rules": [{"sttus": 500}]}'])
async def test_a_senseless_order_is_refused(hub, raw, body):
    answer = await raw.put("/_faults", data=body)

    assert answer.status == 400
    assert (await answer.json())["error"]


async def test_control_is_closed_unless_opened(hub_root):
    async with (
        serve(LocalHubConfig(root=hub_root)) as hub,
        aiohttp.ClientSession(hub.url) as session,
    ):
        assert (await session.put("/_faults", json={"rules": []})).status == 404
        assert (await session.get("/_requests")).status == 404
        assert (await (await session.get("/health")).json()) == {"status": "ok"}


async def test_faults_leave_the_probe_alone(hub, raw):
    hub.faults.add(FaultRule(status=500))

    assert (await raw.get("/health")).status == 200


async def test_a_caller_is_limited_and_told_when_to_return(adapter, hub_root):
    now = [1000.0]
    limits = RateLimits(api=2, resolvers=1, window_s=60)
    headers = {"Authorization": "Bearer hf_alice"}
    info = f"/api/models/{adapter}"
    async with (
        serve(LocalHubConfig(root=hub_root, limits=limits), clock=lambda: now[0]) as hub,
        aiohttp.ClientSession(hub.url) as session,
    ):
        first = await session.get(info)
        await session.get("/api/models/someone/absent")
        now[0] += 12.5
        refused = await session.get(info)
        of_another_caller = await session.get(info, headers=headers)
        of_another_kind = await session.head(f"/{adapter}/resolve/main/README.md")
        now[0] += 47.5
        later = await session.get(info)

    assert first.headers["RateLimit"] == '"api";r=1;t=60'
    assert first.headers["RateLimit-Policy"] == '"fixed window";"api";q=2;w=60'
    assert refused.status == 429
    assert refused.headers["RateLimit"] == '"api";r=0;t=48'
    assert refused.headers["Retry-After"] == "48"
    assert of_another_caller.status == 200
    assert of_another_kind.headers["RateLimit"] == '"resolvers";r=0;t=48'
    assert later.status == 200


async def test_the_real_client_understands_the_limit(adapter, hub_root, stranger):
    async with serve(LocalHubConfig(root=hub_root, limits=RateLimits(api=1))) as limited:
        stranger.endpoint = limited.url
        await to_thread(stranger.model_info, adapter)
        with pytest.raises(HfHubHTTPError) as error:
            await to_thread(stranger.model_info, adapter)

    assert error.value.response.status_code == 429
    assert "you have reached your 'api' rate limit" in str(error.value)
    assert "0/1 requests remaining in current 300s window" in str(error.value)
