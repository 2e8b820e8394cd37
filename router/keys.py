"""What handlers find in the application, by type."""

from aiohttp import web
from redis.asyncio import Redis

from router.metrics import Metrics
from router.queues import Queues
from router.server_guard import ServerGuard
from router.submit import Submissions
from shared.config import RouterConfig
from shared.pools import PoolDirectory

CONFIG = web.AppKey("config", RouterConfig)
METRICS = web.AppKey("metrics", Metrics)
REDIS = web.AppKey("redis", Redis)
POOLS = web.AppKey("pools", PoolDirectory)
QUEUES = web.AppKey("queues", Queues)
SERVER = web.AppKey("server", ServerGuard)
SUBMISSIONS = web.AppKey("submissions", Submissions)
