"""`python -m deploy.local_hub --root DIR`: serve a folder of repositories as a Hub."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.local_hub.rate_limit import RateLimits
from deploy.local_hub.server import LOOPBACK, LocalHubConfig, serve
from deploy.local_hub.settings import SettingsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    options = _parser().parse_args(arguments)
    limits = RateLimits(api=options.api_limit, resolvers=options.resolve_limit, window_s=options.limit_window)
    config = LocalHubConfig(root=options.root, limits=limits, allow_faults=options.allow_faults)
    try:
        asyncio.run(_serve_until_stopped(config, options.host, options.port))
    except (SettingsError, OSError) as error:
        print(f"local hub: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve_until_stopped(config: LocalHubConfig, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(config, host=host, port=port) as hub:
        # A launcher waits for this line to learn the port.
        print(f"local hub listening on {hub.url}", flush=True)
        await stop.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local_hub", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="holds ORGANISATION/NAME/ folders")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=0, help="0 (default) takes a free one")
    parser.add_argument("--api-limit", type=_positive, help="API requests per caller and window")
    parser.add_argument("--resolve-limit", type=_positive, help="file requests per caller and window")
    parser.add_argument("--limit-window", type=_positive, default=300, help="seconds (default: 300)")
    parser.add_argument(
        "--allow-faults", action="store_true", help="open PUT /_faults and GET /_requests, for tests"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected a number of at least 1")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
