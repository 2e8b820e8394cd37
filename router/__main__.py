"""`python -m router`: read the configuration, serve until told to stop."""

import logging
import sys

from aiohttp import web

from router.app import create_app
from shared.config import ConfigError, router_config
from shared.logs import configure_logging

DRAIN_SECONDS = 20.0
"""Requests under way get this long after SIGTERM."""


def main() -> int:
    """Run the router; return the process's exit code."""
    try:
        config = router_config()
    except ConfigError as error:
        sys.stderr.write(f"warmbase router: {error}\n")
        return 2
    configure_logging(config.common.log_level)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line a call, and metrics count them
    try:
        web.run_app(
            create_app(config),
            host=config.host,
            port=config.port,
            access_log=None,
            print=None,
            shutdown_timeout=DRAIN_SECONDS,
            handler_cancellation=True,
        )
    except OSError as error:
        sys.stderr.write(f"warmbase router: cannot listen on {config.host} port {config.port}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
