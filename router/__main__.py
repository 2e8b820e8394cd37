"""`python -m router`: read the configuration, serve until told to stop."""

import argparse
import logging
import sys
from collections.abc import Sequence

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from router.app import create_app
from shared.config import ConfigError, router_config
from shared.logs import configure_logging, end_process

DRAIN_SECONDS = 20.0
"""Requests under way get this long after SIGTERM; then aiohttp cancels them and waits as long again."""

VARIABLES = """\
environment variables:
  REDIS_URL                 Redis >= 7.0 or Valkey >= 7.2          [redis://127.0.0.1:6379/0]
  HF_ENDPOINT               address of the Hub                     [https://huggingface.co]
  WARMBASE_SECRET           seals callers' tokens for the workers; the same as theirs
  WARMBASE_RESULTS_URL      where images wait, as the workers'     [REDIS_URL]
  WARMBASE_RESULTS_BYTES    what all of them together may have     [2 GiB]
  WARMBASE_HOST             where to listen                        [127.0.0.1]
  WARMBASE_PORT             the port; 0 takes a free one           [8000]
  WARMBASE_REQUEST_TIMEOUT  seconds until nobody waits any more    [300]
  WARMBASE_METADATA_TTL     seconds that Hub metadata stays fresh  [300]
  WARMBASE_LOG_LEVEL        debug, info, warning or error          [info]

exit codes: 0 stopped as asked, 1 cannot listen, 2 bad configuration.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the router; return the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m router",
        description="Take requests for models, queue them on the base that each stands on, answer them.",
        epilog=VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    try:
        config = router_config()
    except ConfigError as error:
        parser.error(str(error))
    configure_logging(config.common.log_level)
    logging.getLogger("aiohttp.server").addFilter(_is_no_strangers_fault)
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


def _is_no_strangers_fault(record: logging.LogRecord) -> bool:
    """Keep out what strangers send in place of HTTP: aiohttp logs it as an error of ours, stack and all."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


if __name__ == "__main__":
    end_process(main())
