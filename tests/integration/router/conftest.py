"""A router on a free port, the local Hub beside it, and a worker that draws one grey pixel."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import huggingface_hub
import pytest
from aiohttp import web
from PIL import Image
from redis.asyncio import Redis

from deploy.local_hub.faults import Faults
from deploy.local_hub.server import LocalHubConfig, RunningHub, serve
from router.app import create_app
from shared.config import router_config
from shared.errors import ResultGone
from shared.jobs import Job, JobError, Timings, WorkerId
from shared.pools import PoolDirectory
from shared.queue.queue import JobQueue
from shared.queue.terms import Lease, LeaseState, Progress, QueueSettings
from shared.refs import base_tag
from shared.results.redis_store import RedisResults
from shared.results.store import SOURCE_GONE, source_name
from tests.builders import BASE, a_result, a_worker
from tests.fault_proxy import FaultProxy, Link
from tests.steps import claim_one

WEIGHTS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"
ADAPTER, FEW_STEP, SEVERAL = "someone/crayon", "someone/few-step", "someone/several"
GATED, PRIVATE, DISABLED = "alice/gated", "alice/private", "someone/disabled"
LANGUAGE, OTHER_BASE, GGUF = "someone/language", "someone/other-base", "someone/flux-gguf"
SECRET = "deployment secret"

CARD = f"---\nbase_model: {BASE}\ntags: [lora, diffusers]\n"
REPOSITORIES = {
    BASE: ("---\npipeline_tag: text-to-image\n---\n", ("model_index.json",), ""),
    ADAPTER: (f"{CARD}instance_prompt: crayon\n---\n", ("pytorch_lora_weights.safetensors",), ""),
    FEW_STEP: (
        f"{CARD}inference: {{parameters: {{num_inference_steps: 4, guidance_scale: 1.0}}}}\n---\n",
        ("few.safetensors",),
        "",
    ),
    SEVERAL: (f"{CARD}---\n", ("night.safetensors", "day.safetensors"), ""),
    GATED: (f"{CARD}---\n", ("w.safetensors",), "gated: auto\nallowed_users: [alice]\n"),
    PRIVATE: (f"{CARD}---\n", ("w.safetensors",), "private: true\nallowed_users: [alice]\n"),
    DISABLED: (f"{CARD}---\n", ("w.safetensors",), "disabled: true\n"),
    LANGUAGE: (
        "---\nbase_model: meta/llama\npipeline_tag: text-generation\nlibrary_name: peft\n---\n",
        ("adapter_model.safetensors",),
        "",
    ),
    GGUF: ("---\nbase_model: some/flux\ntags: [gguf]\n---\n", ("model.gguf",), ""),
    OTHER_BASE: ("---\nbase_model: some/flux\ntags: [lora]\n---\n", ("w.safetensors",), ""),
}

StartRouter = Callable[..., Awaitable[str]]


@pytest.fixture(scope="session")
def hub_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    (root / ".hub-tokens.yaml").write_text("hf_alice: alice\nhf_bob: bob\n")
    for repo, (card, files, settings) in REPOSITORIES.items():
        folder = root / repo
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(card)
        for name in files:
            content = b'{"_class_name": "StableDiffusionXLPipeline"}' if name.endswith("json") else WEIGHTS
            (folder / name).write_bytes(content)
        if settings:
            (folder / ".hub.yaml").write_text(settings)
    return root


@pytest.fixture
async def hub(hub_root: Path) -> AsyncIterator[RunningHub]:
    async with serve(LocalHubConfig(root=hub_root), faults=Faults()) as running:
        yield running
    huggingface_hub.close_session()


@pytest.fixture
async def start_router(hub: RunningHub, redis_url: str) -> AsyncIterator[StartRouter]:
    """Start a router as `python -m router` does; returns its address."""
    async with AsyncExitStack() as stack:

        async def start(redis: str = redis_url, **environment: str) -> str:
            config = router_config({"REDIS_URL": redis, "HF_ENDPOINT": hub.url, **environment})
            runner = web.AppRunner(
                create_app(config), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return f"http://127.0.0.1:{runner.addresses[0][1]}"

        yield start


@pytest.fixture
async def router(start_router: StartRouter) -> str:
    return await start_router(WARMBASE_SECRET=SECRET)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def picture(media_type: str) -> bytes:
    """One grey pixel."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1), "grey").save(file, media_type.removeprefix("image/"))
    return file.getvalue()


class PixelWorker:
    """Claims jobs of `BASE` and ends each with one grey pixel, unless the test says otherwise.

    Attributes:
        jobs: what was claimed.
        sources: the pictures that jobs started from.
        error: what jobs fail with instead.
        free: while it is clear, claimed jobs run on and renew their leases.
        cancelled: jobs whose cancel a heartbeat brought.
        damage: replaces the stored image's bytes.
    """

    def __init__(self, redis: Redis) -> None:
        self.info = a_worker(image_to_image=True)
        self.queue = JobQueue(redis, base_tag(BASE), QueueSettings())
        self.results = RedisResults(redis, ttl=600, most_bytes=1 << 30)
        self.pools = PoolDirectory(redis)
        self.jobs: list[Job] = []
        self.sources: list[bytes] = []
        self.error: JobError | None = None
        self.free = asyncio.Event()
        self.free.set()
        self.cancelled: list[str] = []
        self.damage: bytes | None = None
        self.stopped = False

    async def has_claimed(self, count: int) -> bool:
        """Whether this many jobs were claimed."""
        return len(self.jobs) == count

    async def sees_waiting(self, count: int) -> bool:
        """Whether this many jobs wait."""
        return (await self.queue.depth())[0] == count

    async def has_cancelled(self) -> bool:
        """Whether the first job's heartbeat brought its cancel."""
        return self.cancelled == [self.jobs[0].id]

    async def work(self) -> None:
        """Work until stopped; a server that is away for a while is no reason to stop."""
        claims = 0
        while not self.stopped:
            claims += 1
            with suppress(Exception):
                await self.pools.announce(self.info, 60.0)
                if lease := await claim_one(self.queue, WorkerId("pixel"), f"{id(self)}-{claims}"):
                    self.jobs.append(lease.job)
                    await self._end(lease)
            await asyncio.sleep(0.01)

    async def _end(self, lease: Lease) -> None:
        while not self.free.is_set():
            states = await self.queue.heartbeat(lease.worker, [Progress(lease=lease, step=1, total=20)])
            if states[lease.job.id] is not LeaseState.HELD:
                self.cancelled.append(lease.job.id)
                break
            await asyncio.sleep(0.02)
        if self.error:
            await self.queue.fail(lease, self.error, retry=False)
            return
        params = lease.job.params
        if params.source is not None:
            try:
                self.sources.append(await self.results.get(source_name(BASE, params.source)))
            except ResultGone as error:
                gone = JobError(code=error.code, message=SOURCE_GONE)
                await self.queue.fail(lease, gone, retry=False)
                return
        image = picture(params.image_format.media_type)
        result = a_result(
            blob=await self.results.put(lease, self.damage or image),
            media_type=params.image_format.media_type,
            digest=hashlib.sha256(image).hexdigest(),
            size=len(image),
            adapters=lease.job.adapters,
            seed=params.seed,
            steps=params.steps or 20,
            timings=Timings(fetch=0.1, swap=0.004, inference=0.2, encode=0.01),
        )
        await self.queue.complete(lease, result)


@pytest.fixture
async def worker(redis: Redis) -> AsyncIterator[PixelWorker]:
    """A worker that lives and works."""
    pixel = PixelWorker(redis)
    await pixel.pools.announce(pixel.info, 60.0)
    working = asyncio.create_task(pixel.work())
    yield pixel
    pixel.stopped = True
    pixel.free.set()
    await working


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Link]:
    """A way to the server that the test can fault."""
    async with FaultProxy(redis_url) as proxy:
        yield await proxy.listen()


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the condition is a server's
            await asyncio.sleep(0.02)
