"""What the application and each request carry, by typed key, and the addresses that are no Hub's."""

from aiohttp import web

from deploy.local_hub.catalog import Catalog
from deploy.local_hub.faults import FaultRule, Faults
from deploy.local_hub.rate_limit import FixedWindowLimiter, Quota
from deploy.local_hub.request_log import RequestLog

CATALOG = web.AppKey("catalog", Catalog)
FAULTS = web.AppKey("faults", Faults)
LIMITER = web.AppKey("limiter", FixedWindowLimiter)
REQUESTS = web.AppKey("requests", RequestLog)

NUMBER = web.RequestKey("number", int)
VIEWER = web.RequestKey("viewer", str)
FAULT = web.RequestKey("fault", FaultRule)
QUOTA = web.RequestKey("quota", Quota)

HEALTH_PATH = "/health"
FAULTS_PATH = "/_faults"
REQUESTS_PATH = "/_requests"
OPERATOR_PATHS = frozenset({HEALTH_PATH, FAULTS_PATH, REQUESTS_PATH})
"""Neither logged nor disturbed nor counted."""
