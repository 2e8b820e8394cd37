"""The composition root: concrete classes meet here, and nothing is opened before the application starts."""

import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

from aiohttp import web

from router import handlers, operations
from router.catalogue import Catalogue
from router.hub import Hub
from router.keys import CONFIG, METRICS, POOLS, QUEUES, REDIS, SERVER, SUBMISSIONS
from router.leftovers import Leftovers
from router.metadata_cache import Lifetimes, MetadataCache
from router.metrics import Metrics
from router.middleware import accompany, answer_errors
from router.queues import Queues
from router.server_guard import ServerGuard
from router.submit import Submissions
from router.waiting import JobWaiter
from shared.config import RouterConfig
from shared.pools import BasePool, PoolDirectory
from shared.queue.terms import QueueSettings
from shared.redis_address import ManyServers, parse_address
from shared.redis_client import command_client, pubsub_client
from shared.results.opening import open_results
from shared.results.redis_store import trim_images
from shared.sealing import Sealer
from shared.server_check import ROUTER_COMMANDS, check_server, has_room

LARGEST_BODY = 12 << 20
"""Bytes. The largest image in base64, and room for the rest."""

POOLS_LIFETIMES = Lifetimes(fresh=0.5, negative=0.0, stale=5.0, retry=0.5)
"""Seconds that a look at the live pools serves all requests: a worker's announcement lives for longer."""


def create_app(config: RouterConfig) -> web.Application:
    """Return the router's application. It connects on start-up, and to what answers later as well."""
    app = web.Application(middlewares=[accompany, answer_errors], client_max_size=LARGEST_BODY)
    app[CONFIG] = config
    app[METRICS] = Metrics()
    app.cleanup_ctx.extend([_redis, _submissions])
    app.add_routes(
        [
            web.get("/", operations.index),
            web.get("/health", operations.health),
            web.get("/ready", operations.ready),
            web.get("/info", operations.info),
            web.get("/metrics", operations.metrics),
            web.get("/openapi.json", operations.openapi),
            # The whole rest, so that a malformed id is told so instead of being an unknown route.
            web.post("/models/{model:.+}", handlers.generate),
            web.get("/models/{model:.+}", handlers.describe),
            web.get("/jobs/{job}", handlers.job),
            web.delete("/jobs/{job}", handlers.cancel_job),
            web.get("/jobs/{job}/image", handlers.job_image),
        ]
    )
    return app


async def _redis(app: web.Application) -> AsyncIterator[None]:
    """The connections for commands and what stands on them."""
    common, settings = app[CONFIG].common, QueueSettings()
    images = open_results(
        common.results_url or common.redis_url, ttl=settings.record_ttl, most_bytes=common.results_bytes
    )
    async with command_client(common.redis_url) as redis, images as results:
        app[REDIS] = redis
        app[POOLS] = PoolDirectory(redis)
        app[QUEUES] = Queues(redis, settings, app[METRICS], results)

        # Of a cluster each base has a node of its own, of which the others know nothing.
        of_many = isinstance(parse_address(common.redis_url), ManyServers)
        guard = ServerGuard(
            lambda: check_server(redis, ROUTER_COMMANDS),
            None if of_many else lambda: has_room(redis, partial(trim_images, redis)),
        )
        async with guard as app[SERVER], Leftovers(app[POOLS], app[QUEUES]):
            yield


async def _submissions(app: web.Application) -> AsyncIterator[None]:
    """The Hub, the waiter, and the use case that needs them."""
    config, common = app[CONFIG], app[CONFIG].common
    hub = Hub(common.hub, app[METRICS])
    catalogue = Catalogue(hub, fresh=config.metadata_ttl)
    pools: MetadataCache[str, Sequence[BasePool]] = MetadataCache(
        lambda _: app[POOLS].live(), lifetimes=POOLS_LIFETIMES, clock=time.monotonic, capacity=1
    )
    async with (
        pubsub_client(common.redis_url) as subscriptions,
        JobWaiter(app[QUEUES], subscriptions) as waiter,
    ):
        app[SUBMISSIONS] = Submissions(
            catalogue=catalogue,
            live_pools=lambda: pools.get("live"),
            queues=app[QUEUES],
            waiter=waiter,
            metrics=app[METRICS],
            sealer=Sealer(common.secret) if common.secret else None,
            limits=config.limits,
            timeout=config.request_timeout,
        )
        yield
    await catalogue.close()
    await pools.close()
    hub.close()
