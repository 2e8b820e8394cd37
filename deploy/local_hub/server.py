"""The local Hub put together and listening."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from yarl import URL

from deploy.local_hub import api, control, files
from deploy.local_hub.catalog import Catalog
from deploy.local_hub.faults import Faults
from deploy.local_hub.keys import (
    CATALOG,
    FAULTS,
    FAULTS_PATH,
    HEALTH_PATH,
    LIMITER,
    REQUESTS,
    REQUESTS_PATH,
)
from deploy.local_hub.middleware import admit, explain_refusals, finish_headers, note_and_disturb
from deploy.local_hub.rate_limit import FixedWindowLimiter, RateLimits
from deploy.local_hub.request_log import RequestLog

LOOPBACK = "127.0.0.1"
SHUTDOWN_TIMEOUT_S = 1.0

# Models of one word exist only as former names, but clients ask for them.
_REPO_PATTERNS = ("{repo:[^/]+/[^/]+}", "{repo:[^/]+}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalHubConfig:
    """How a local Hub is set up. `allow_faults` opens the control routes to anyone who can connect."""

    root: Path
    limits: RateLimits = field(default_factory=RateLimits)
    allow_faults: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningHub:
    """A local Hub that listens; `url` is what clients take as their endpoint."""

    url: str
    faults: Faults
    requests: RequestLog


def create_app(
    config: LocalHubConfig,
    *,
    faults: Faults | None = None,
    requests: RequestLog | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> web.Application:
    """Build the application. Tests keep hold of `faults` and `requests` and set the rate's `clock`."""
    hub = web.Application(middlewares=[note_and_disturb, explain_refusals, admit])
    hub[CATALOG] = Catalog(config.root)
    hub[LIMITER] = FixedWindowLimiter(config.limits, clock)
    hub[FAULTS] = faults or Faults()
    hub[REQUESTS] = requests or RequestLog()
    hub.on_startup.append(_read_everything)
    hub.on_response_prepare.append(finish_headers)
    hub.add_routes(_hub_routes())
    hub.add_routes(_operator_routes(allow_faults=config.allow_faults))
    return hub


@asynccontextmanager
async def serve(
    config: LocalHubConfig,
    *,
    host: str = LOOPBACK,
    port: int = 0,
    faults: Faults | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[RunningHub]:
    """Run a local Hub while the context is open; port 0 takes a free one."""
    faults = faults or Faults()
    requests = RequestLog()
    app = create_app(config, faults=faults, requests=requests, clock=clock)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound_port = runner.addresses[0][1]
        url = URL.build(scheme="http", host=host, port=bound_port)
        yield RunningHub(url=str(url), faults=faults, requests=requests)
    finally:
        await runner.cleanup()


async def _read_everything(hub: web.Application) -> None:
    """Read all files before the first request: large ones take longer than clients wait."""
    await asyncio.to_thread(hub[CATALOG].prepare)


def _hub_routes() -> list[web.RouteDef]:
    routes = [
        web.get("/api/models", api.models),
        web.get("/api/whoami-v2", api.whoami),
    ]
    for repo in _REPO_PATTERNS:
        base = f"/api/models/{repo}"
        routes += [
            web.get(f"{base}/revision/{{revision}}", api.model_info),
            web.get(f"{base}/tree/{{revision}}", api.tree),
            web.get(f"{base}/tree/{{revision}}/{{path:.+}}", api.tree),
            web.post(f"{base}/paths-info/{{revision}}", api.paths),
            web.get(f"{base}/refs", api.refs),
            web.get(f"{base}/auth-check", api.auth_check),
            web.get(base, api.model_info),
            web.get(f"/{repo}/resolve/{{revision}}/{{path:.+}}", files.resolve),
        ]
    return routes


def _operator_routes(*, allow_faults: bool) -> list[web.RouteDef]:
    routes = [web.get(HEALTH_PATH, control.health)]
    if allow_faults:
        routes += [
            web.put(FAULTS_PATH, control.put_faults),
            web.get(REQUESTS_PATH, control.get_requests),
            web.delete(REQUESTS_PATH, control.delete_requests),
        ]
    return routes
