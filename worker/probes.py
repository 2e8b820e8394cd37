"""Health, readiness and metrics over HTTP, on a port of their own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from shared.refs import RepoId
from worker.metrics import WorkerMetrics


@dataclass(kw_only=True, slots=True)
class Readiness:
    """Where the process is on its way: `stage` is for people, `ready` says whether it takes jobs."""

    base: RepoId
    stage: str = "starting"
    ready: bool = False


@asynccontextmanager
async def serve_probes(
    host: str, port: int, readiness: Readiness, metrics: WorkerMetrics
) -> AsyncIterator[int]:
    """Serve `/health`, `/ready` and `/metrics` while the context is open; give the port."""

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_request: web.Request) -> web.Response:
        return web.json_response(asdict(readiness), status=200 if readiness.ready else 503)

    async def exposition(_request: web.Request) -> web.Response:
        metrics.ready.set(readiness.ready)
        return web.Response(body=metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/health", health), web.get("/ready", ready), web.get("/metrics", exposition)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
