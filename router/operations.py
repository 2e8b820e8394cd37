"""What operators ask: alive, ready, what runs, metrics; and an index for whoever comes by."""

import asyncio
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from aiohttp import web

from router.keys import CONFIG, METRICS, POOLS, QUEUES, REDIS, SERVER
from router.openapi import DOCUMENT
from shared.errors import QueueUnavailable
from shared.redis_client import SILENT, translate_errors

READY_SECONDS = 1.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def index(_request: web.Request) -> web.Response:
    """`GET /`: where things are."""
    return web.json_response(
        {
            "service": "warmbase",
            "version": package_version(),
            "generate": "POST /models/{organisation}/{name}",
            "links": ["/info", "/health", "/ready", "/metrics", "/openapi.json"],
        }
    )


async def health(_request: web.Request) -> web.Response:
    """`GET /health`: the process is alive."""
    return web.json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """`GET /ready`: Redis answers and can hold the queue, so requests can be taken."""
    try:
        async with asyncio.timeout(READY_SECONDS):
            await request.app[SERVER].diagnose()
            with translate_errors():
                await request.app[REDIS].ping()
    except TimeoutError as error:
        raise QueueUnavailable(SILENT) from error
    return web.json_response({"status": "ready"})


async def info(request: web.Request) -> web.Response:
    """`GET /info`: version, bases that run, limits, and which Hub is asked."""
    config = request.app[CONFIG]
    pools = await request.app[POOLS].live()
    return web.json_response(
        {
            "version": package_version(),
            "bases": [
                {"base": pool.base, "workers": [asdict(worker) for worker in pool.workers]} for pool in pools
            ],
            "limits": asdict(config.limits),
            "hub": urlsplit(config.common.hub).hostname,
        }
    )


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: Prometheus' text; without the queues' part while Redis does not answer."""
    app = request.app
    try:
        bases = [pool.base for pool in await app[POOLS].live()]
        app[METRICS].set_loads(await app[QUEUES].loads(bases))
    except QueueUnavailable:
        app[METRICS].set_loads({})
    return web.Response(body=app[METRICS].render(), headers={"Content-Type": METRICS_TYPE})


async def openapi(_request: web.Request) -> web.Response:
    """`GET /openapi.json`: this interface for programs."""
    return web.json_response(DOCUMENT)


def package_version() -> str:
    """Return the installed version."""
    try:
        return version("warmbase")
    except PackageNotFoundError:
        return "unknown"
