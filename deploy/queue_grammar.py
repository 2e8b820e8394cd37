"""The words of `warmbase queue`: its commands, their arguments, and what is wrong with those."""

import argparse
from collections.abc import Sequence

from shared.errors import InvalidRequest
from shared.jobs import JobId, parse_job_id
from shared.redis_address import parse_address
from shared.refs import RepoId, parse_repo_id

COMMANDS = ("list", "dead", "show", "retry", "drop", "pause", "resume", "drain", "key")
MOST_BASES = 100
MOST_DEAD = 20

_COLUMNS = (
    "OLDEST is how long the oldest job has waited; WORK is what all that waits, delayed or not, "
    "is expected to take a single worker."
)
_TOKENS = "Callers' Hub tokens are not kept: adapters that only the caller may read fail once more."


def or_list(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the command that is meant where they begin with none."""
    begins_with_an_option = not arguments or arguments[0].startswith("-")
    asks_for_help = {"-h", "--help"} & set(arguments)
    if begins_with_an_option and not asks_for_help and not set(COMMANDS) & set(arguments):
        return ["list", *arguments]
    return list(arguments)


def grammar() -> argparse.ArgumentParser:
    """Return the command's grammar."""
    parser = argparse.ArgumentParser(
        prog="warmbase queue",
        description="Show how the queues stand, and act on them. Without a command: list.",
    )
    _add_redis(parser, None)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, more: str = "") -> argparse.ArgumentParser:
        description = f"{text[0].upper()}{text[1:]}. {more}".strip()
        command = commands.add_parser(name, help=text, description=description)
        _add_redis(command, argparse.SUPPRESS)  # what stands before the command's name shall not be undone
        return command

    bases = add("list", "the bases that are served now, with what waits and runs", _COLUMNS)
    bases.add_argument(
        "--base", action="append", default=[], type=_base, metavar="BASE", help="also this one; repeatable"
    )
    _add_most(bases, MOST_BASES)
    _add_json(bases)
    dead = add("dead", "the jobs of a base that were given up, the latest first")
    _add_base(dead)
    _add_most(dead, MOST_DEAD)
    _add_json(dead)
    show = add("show", "all that is known of a job")
    show.add_argument("job", metavar="JOB", type=_job, help="its id")
    _add_json(show)
    _add_jobs(add("retry", "have jobs that were given up run again, as if they came now", _TOKENS))
    _add_jobs(add("drop", "forget jobs that were given up"))
    _add_base(add("pause", "have a base take jobs and hand none out", "What runs goes on."))
    _add_base(add("resume", "have a base take jobs and hand them out again"))
    _add_base(add("drain", "have a base hand out what waits and take no job"))
    _add_base(add("key", "the Redis key whose size an autoscaler watches: a sorted set of waiting jobs"))
    return parser


def _add_redis(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--redis",
        metavar="URL",
        type=_redis,
        default=default,
        help="the server (default: REDIS_URL, else one on this machine)",
    )


def _add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", type=_base, help="as organisation/name")


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", nargs="*", metavar="JOB", type=_job, help="ids")
    parser.add_argument("--all", metavar="BASE", type=_base, help="all of this base")


def _add_most(parser: argparse.ArgumentParser, most: int) -> None:
    parser.add_argument(
        "--most", type=_count, default=most, metavar="N", help="show at most N (default: %(default)s)"
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for machines")


def _base(text: str) -> RepoId:
    try:
        return parse_repo_id(text, "")
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _job(text: str) -> JobId:
    try:
        return parse_job_id(text)
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no job id: 16 hexadecimal digits, a hyphen and 32 more"
        ) from error


def _redis(text: str) -> str:
    try:
        parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
