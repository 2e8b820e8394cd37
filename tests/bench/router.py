"""What the router adds to a request, beside a bare aiohttp handler that makes one round trip through Redis.

    python tests/bench/router.py [--requests 600]

Both arms answer the same client with the same kilobyte, each through a worker that draws nothing. The bare
arm pushes the body to a list, and its worker pushes an image back; it checks, remembers and measures
nothing. Requests of the two arms alternate; the table shows the medians, their ratio, and the router's
memory.
"""

import argparse
import asyncio
import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import psutil
from aiohttp import web

from deploy import embedded_valkey
from deploy.local_hub.server import LocalHubConfig, serve
from deploy.ports import free_ports
from shared.jobs import WorkerId
from shared.pools import PoolDirectory
from shared.queue.queue import JobQueue
from shared.queue.terms import QueueSettings
from shared.redis_client import blocking_client, command_client
from shared.refs import base_tag
from shared.results.redis_store import RedisResults
from tests.builders import BASE, a_result, a_worker
from tests.servers import valkey
from tests.steps import claim_one

ROOT = Path(__file__).parents[2]
ADAPTER = "someone/crayon"
IMAGE = bytes(1024)
BODY = {"inputs": "a red circle", "parameters": {"seed": 1}}
HEADERS = {"Accept": "image/png"}
JOBS, REPLIES = "bench:jobs", "bench:reply:"
WARM_UP = 50
LONGEST_WAIT = 5.0


async def serve_bare(redis_url: str, port: int) -> None:
    """The reference: a handler that asks a worker through two lists."""
    redis = blocking_client(redis_url, LONGEST_WAIT)
    count = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal count
        count += 1
        await redis.rpush(JOBS, f"{count} ".encode() + await request.read())
        _, image = await redis.blpop([f"{REPLIES}{count}"], timeout=LONGEST_WAIT)
        return web.Response(body=image, content_type="image/png")

    app = web.Application()
    app.router.add_post("/models/{model:.+}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


async def work(redis_url: str) -> None:
    """The workers of both arms, which draw nothing."""
    await asyncio.gather(work_bare(redis_url), work_warmbase(redis_url))


async def work_bare(redis_url: str) -> None:
    """Answer what comes on the list."""
    redis = blocking_client(redis_url, LONGEST_WAIT)
    while True:
        if job := await redis.blpop([JOBS], timeout=LONGEST_WAIT):
            await redis.rpush(f"{REPLIES}{job[1].partition(b' ')[0].decode()}", IMAGE)


async def work_warmbase(redis_url: str) -> None:
    """Claim, store, complete: what a worker does, without the drawing."""
    redis, blocking = command_client(redis_url), blocking_client(redis_url, LONGEST_WAIT)
    queue, claims = JobQueue(redis, base_tag(BASE), QueueSettings()), 0
    results, digest = RedisResults(redis, ttl=60, most_bytes=1 << 30), hashlib.sha256(IMAGE).hexdigest()
    while True:
        claims += 1
        lease = await claim_one(queue, WorkerId("null"), str(claims))
        if lease is None:
            await queue.wait_for_work(blocking, LONGEST_WAIT)
            continue
        result = a_result(blob=await results.put(lease, IMAGE), digest=digest, size=len(IMAGE))
        await queue.complete(lease, replace(result, adapters=lease.job.adapters))


async def measure(redis_url: str, requests: int) -> None:
    """Run both arms and print the table."""
    ours_port, bare_port = free_ports(2)
    async with hub() as hub_url, announced(redis_url):
        environment = {"REDIS_URL": redis_url, "HF_ENDPOINT": hub_url, "WARMBASE_LOG_LEVEL": "warning"}
        with (
            child("router", WARMBASE_PORT=str(ours_port), **environment) as router,
            child(
                "tests.bench.router", "--role", "bare", "--redis", redis_url, "--port", str(bare_port)
            ) as reference,
            child("tests.bench.router", "--role", "work", "--redis", redis_url),
        ):
            urls = [f"http://127.0.0.1:{port}/models/{ADAPTER}" for port in (ours_port, bare_port)]
            servers = psutil.Process(router.pid), psutil.Process(reference.pid)
            ours, bare = await alternate(urls, servers, requests)
            memory = servers[0].memory_info().rss / 2**20
    report(ours, bare, memory)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Milliseconds of each request of an arm, and of its server's CPU time for one request."""

    taken: list[float]
    cpu: float


async def alternate(urls: Sequence[str], servers: Sequence[psutil.Process], requests: int) -> list[Arm]:
    """Return what the arms took, in the order of their addresses."""
    async with aiohttp.ClientSession(headers=HEADERS) as client:
        for url in urls:
            await up(client, url)
        await rounds(client, urls, WARM_UP)
        before = [cpu_seconds(server) for server in servers]
        times = await rounds(client, urls, requests)
        spent = [cpu_seconds(server) - begin for server, begin in zip(servers, before, strict=True)]
    return [
        Arm(taken=taken, cpu=1000 * seconds / requests) for taken, seconds in zip(times, spent, strict=True)
    ]


async def rounds(client: aiohttp.ClientSession, urls: Sequence[str], count: int) -> list[list[float]]:
    """Send `count` requests to each address in turn; return the milliseconds of each."""
    times: list[list[float]] = [[] for _ in urls]
    for _ in range(count):
        for url, taken in zip(urls, times, strict=True):
            begin = time.perf_counter()
            async with client.post(url, json=BODY) as response:
                assert await response.read() == IMAGE
            taken.append(1000 * (time.perf_counter() - begin))
    return times


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process: unlike the clock's, it hardly depends on what else runs."""
    times = process.cpu_times()
    return times.user + times.system


async def up(client: aiohttp.ClientSession, url: str) -> None:
    """Return once the server answers a request."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with client.post(url, json=BODY) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)


def report(ours: Arm, bare: Arm, memory: float) -> None:
    """Print the table."""
    print(f"{'':32}{'p50':>10}{'p95':>10}{'CPU':>10}")
    for name, arm in (("router, known id, null worker", ours), ("bare aiohttp and Redis", bare)):
        p95 = statistics.quantiles(arm.taken, n=20)[-1]
        print(f"{name:32}{statistics.median(arm.taken):7.2f} ms{p95:7.2f} ms{arm.cpu:7.2f} ms")
    ratio = statistics.median(ours.taken) / statistics.median(bare.taken)
    print(f"{'ratio':32}{ratio:10.2f}{'':10}{ours.cpu / bare.cpu:10.2f}")
    print(f"{'router memory':32}{memory:6.0f} MiB")


@asynccontextmanager
async def hub() -> AsyncIterator[str]:
    """A local Hub with one adapter."""
    with tempfile.TemporaryDirectory() as root:
        write_adapter(Path(root, ADAPTER))
        async with serve(LocalHubConfig(root=Path(root))) as running:
            yield running.url


def write_adapter(folder: Path) -> None:
    """Write a repository that the router takes for an adapter."""
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"---\nbase_model: {BASE}\ntags: [lora, diffusers]\n---\n")
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")


@asynccontextmanager
async def announced(redis_url: str) -> AsyncIterator[None]:
    """A pool of the base, for as long as the benchmark lasts."""
    async with command_client(redis_url) as redis:
        await PoolDirectory(redis).announce(a_worker(), 3600.0)
        yield


@contextmanager
def child(module: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own, ended with the block."""
    with subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def main() -> None:
    """Read the arguments, and be the benchmark or one of its processes."""
    parser = argparse.ArgumentParser(prog="python tests/bench/router.py")
    parser.add_argument("--requests", type=int, default=600, help="requests of each arm")
    parser.add_argument("--role", choices=["bare", "work"], help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "bare":
        asyncio.run(serve_bare(given.redis, given.port))
    elif given.role == "work":
        asyncio.run(work(given.redis))
    else:
        server = embedded_valkey.start(valkey())
        try:
            asyncio.run(measure(server.url, given.requests))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
