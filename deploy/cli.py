"""The `warmbase` command. A subcommand's packages are imported only when it is called."""

import argparse
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper

from deploy.plan import UpOptions, choose_bases
from shared.errors import InvalidRequest
from shared.redis_address import parse_address

_PROCESSES = {
    "router": "the stateless edge (settings: WARMBASE_* variables)",
    "worker": "one warm base model (settings: WARMBASE_* variables)",
}


def main(
    arguments: Sequence[str] | None = None,
    environ: Mapping[str, str] = os.environ,  # noqa: TID251 - children inherit it
) -> int:
    """Run the command; return its exit code: 0 for a wanted end, 1 for a failure, 2 for bad arguments."""
    if isinstance(sys.stdout, TextIOWrapper):  # what is shown may hold what the terminal's encoding has not
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = build_parser()
    parsed, rest = parser.parse_known_args(arguments)
    if parsed.command in _PROCESSES:
        sys.argv[1:] = rest
        runpy.run_module(parsed.command, run_name="__main__", alter_sys=True)
        return 0
    if parsed.command == "queue":
        done: int = import_module("deploy.queue_command").main(rest, environ)
        return done
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        options = _up_options(parsed, environ)
    except (InvalidRequest, ValueError) as error:
        parser.error(str(error))
    code: int = import_module("deploy.up").main(options, environ)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the command's grammar."""
    parser = argparse.ArgumentParser(
        prog="warmbase", description="Serve hundreds of LoRAs from a few warm base models."
    )
    parser.add_argument("--version", action="version", version=f"warmbase {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_up(commands.add_parser("up", help="everything on one machine", description=_UP_DESCRIPTION))
    for name, help_text in {**_PROCESSES, "queue": "how the queues stand, and what to do about it"}.items():
        commands.add_parser(name, help=help_text, add_help=False)  # each has a help of its own
    return parser


_UP_DESCRIPTION = (
    "Run a queue, the router and one worker for each base on this machine. "
    "With --demo also a local Hub with small models: no GPU and no network needed."
)


def _add_up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--demo", action="store_true", help="serve the small models that come with Warmbase")
    parser.add_argument(
        "--base", action="append", default=[], metavar="ID", help="a base model to keep warm; repeatable"
    )
    parser.add_argument(
        "--redis", metavar="URL", help="use this Redis or Valkey (default: REDIS_URL, else an embedded one)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=_port, default=8000, help="port to listen on, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--device", help="torch device of the workers (default: a GPU if there is one)")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="the workers' number format"
    )
    parser.add_argument("--verbose", action="store_true", help="show all that the parts log")


def _up_options(parsed: argparse.Namespace, environ: Mapping[str, str]) -> UpOptions:
    redis_url = parsed.redis or environ.get("REDIS_URL") or None
    if redis_url:
        try:
            parse_address(redis_url)
        except ValueError as error:
            raise ValueError(f"the address of Redis: {error}") from error
    return UpOptions(
        demo=parsed.demo,
        bases=choose_bases(parsed.demo, parsed.base),
        redis_url=redis_url,
        host=parsed.host,
        port=parsed.port,
        device=parsed.device,
        dtype=parsed.dtype,
        verbose=parsed.verbose,
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number between 0 and 65535")
    return int(text)


def _version() -> str:
    try:
        return version("warmbase")
    except PackageNotFoundError:
        return "(not installed)"
