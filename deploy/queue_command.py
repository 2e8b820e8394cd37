"""`warmbase queue`: how the queues stand, and what an operator does about them.

What was asked for goes to standard output, remarks go to standard error.
"""

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from deploy.queue_grammar import grammar, or_list
from deploy.queue_text import (
    BaseLine,
    bases_json,
    bases_table,
    dead_json,
    dead_table,
    job_json,
    job_page,
    why_not,
)
from deploy.redis_refusal import why_unavailable
from shared.config import ConfigError, redis_url
from shared.errors import QueueUnavailable
from shared.jobs import JobId, job_base_tag
from shared.pools import PoolDirectory
from shared.queue.keys import BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import Mode, QueueSettings
from shared.redis_client import command_client
from shared.refs import RepoId, base_tag

_MODES = {"pause": Mode.PAUSED, "resume": Mode.OPEN, "drain": Mode.DRAINING}
_WHAT_IT_DOES = {
    Mode.PAUSED: "is paused: jobs are taken and wait, none is handed out; those that run go on",
    Mode.OPEN: "is open: jobs are taken and handed out",
    Mode.DRAINING: "is being drained: those that wait are handed out, no new job is taken",
}


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command; return its exit code: 0 when all was done, 1 when not, 2 for bad arguments."""
    parser = grammar()
    asked = parser.parse_args(or_list(arguments))
    if asked.command in _ON_JOBS and bool(asked.jobs) == bool(asked.all):
        parser.error(f"{asked.command}: name either jobs, or their base with --all")
    try:
        url = asked.redis or redis_url(environ)
    except ConfigError as error:
        parser.error(str(error))
    try:
        code = asyncio.run(_run(asked, url))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, as `head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        return 1
    return code


async def _run(asked: argparse.Namespace, url: str) -> int:
    try:
        async with command_client(url) as redis:
            return await _COMMANDS[asked.command](redis, asked)
    except (QueueUnavailable, RedisError) as error:
        _remark(why_unavailable(error, url))
        return 1


async def _list(redis: Redis, asked: argparse.Namespace) -> int:
    workers = {pool.base: len(pool.workers) for pool in await PoolDirectory(redis).live()}
    bases = list(dict.fromkeys([*asked.base, *workers]))
    shown = bases[: asked.most]
    queues = await asyncio.gather(*(_queue(redis, base).overview() for base in shown))
    lines = [
        BaseLine(base=base, workers=workers.get(base, 0), queue=queue)
        for base, queue in zip(shown, queues, strict=True)
    ]
    if asked.json:
        print(bases_json(lines))
    elif lines:
        print(bases_table(lines, _width()))
    else:
        _remark("no base is served now; --base shows one all the same")
    _remark_on_rest(len(bases) - len(shown), asked.most)
    return 0


async def _dead(redis: Redis, asked: argparse.Namespace) -> int:
    queue = _queue(redis, asked.base)
    overview, found = await asyncio.gather(queue.overview(), queue.dead(asked.most))
    # a record may have expired that its id has not yet followed
    records = [record for record in await queue.records(found) if record]
    if asked.json:
        print(dead_json(records))
    elif records:
        print(dead_table(records, overview.now, _width()))
    else:
        _remark(f"{asked.base} has no job that was given up")
    _remark_on_rest(overview.given_up - len(records), asked.most)
    return 0


async def _show(redis: Redis, asked: argparse.Namespace) -> int:
    known = await _queue_of(redis, asked.job).find(asked.job)
    if known is None:
        _remark(f"{asked.job} {why_not(None)}")
        return 1
    print(job_json(known) if asked.json else job_page(known, _width()))
    return 0


async def _retry(redis: Redis, asked: argparse.Namespace) -> int:
    return await _each(redis, asked, JobQueue.revive, "run again", "runs again")


async def _drop(redis: Redis, asked: argparse.Namespace) -> int:
    return await _each(redis, asked, JobQueue.drop, "are dropped", "is dropped")


async def _each(
    redis: Redis,
    asked: argparse.Namespace,
    act: Callable[[JobQueue, JobId], Awaitable[bool]],
    they: str,
    it: str,
) -> int:
    """Do something with each given-up job that was named, or with all of a base."""
    if asked.all:
        queue = _queue(redis, asked.all)
        # the oldest first: those that run again do so in the order in which they came
        done = [await act(queue, job) for job in reversed(await queue.dead())]
        count = sum(done)
        print(f"{count} {'job' if count == 1 else 'jobs'} of {asked.all} {it if count == 1 else they}")
        return 0
    code = 0
    for job in dict.fromkeys(asked.jobs):
        queue = _queue_of(redis, job)
        if await act(queue, job):
            print(f"{job} {it}")
        else:
            (record,) = await queue.records([job])
            _remark(f"{job} {why_not(record)}")
            code = 1
    return code


async def _set_mode(redis: Redis, asked: argparse.Namespace) -> int:
    mode = _MODES[asked.command]
    await _queue(redis, asked.base).set_mode(mode)
    print(f"{asked.base} {_WHAT_IT_DOES[mode]}")
    if asked.base not in {pool.base for pool in await PoolDirectory(redis).live()}:
        _remark(f"nobody serves {asked.base} now; it holds for the workers that come")
    return 0


async def _key(_redis: Redis, asked: argparse.Namespace) -> int:
    print(BaseKeys(base_tag(asked.base)).ready)
    return 0


_ON_JOBS = ("retry", "drop")
_COMMANDS: Mapping[str, Callable[[Redis, argparse.Namespace], Awaitable[int]]] = {
    "list": _list,
    "dead": _dead,
    "show": _show,
    "retry": _retry,
    "drop": _drop,
    **dict.fromkeys(_MODES, _set_mode),
    "key": _key,
}


def _queue(redis: Redis, base: RepoId) -> JobQueue:
    return JobQueue(redis, base_tag(base), QueueSettings())


def _queue_of(redis: Redis, job: JobId) -> JobQueue:
    return JobQueue(redis, job_base_tag(job), QueueSettings())


def _width() -> int | None:
    """Return the terminal's width; None for a file or a pipe, where lines stay whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _remark_on_rest(count: int, most: int) -> None:
    if count > 0:
        _remark(f"and {count} more: --most {most + count} shows all")


def _remark(text: str) -> None:
    print(f"warmbase queue: {text}", file=sys.stderr)
