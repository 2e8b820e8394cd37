"""`warmbase up`: everything on one machine, from nothing to a first picture, and back to nothing."""

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
from redis.exceptions import RedisError

from deploy import embedded_valkey
from deploy.announcement import death_text, ready_text
from deploy.children import LineHandler
from deploy.log_lines import for_people, parse
from deploy.plan import (
    ChildSpec,
    Machine,
    Role,
    UpOptions,
    common_environ,
    hub_child,
    local_url,
    router_child,
    worker_children,
)
from deploy.ports import PortUnusable, check_port, free_ports
from deploy.progress import Screen, Status, open_screen
from deploy.readiness import ask
from deploy.redis_refusal import why_unavailable
from deploy.system import Death, System, ValkeyPart
from shared.config import ConfigError, worker_config
from shared.errors import QueueUnavailable
from shared.redis_client import command_client, translate_errors

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CannotStart(Exception):
    """Something that `warmbase up` needs is not there; the message says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Where the children listen; `workers` are for probes only."""

    router: int
    hub: int
    workers: tuple[int, ...]


def main(options: UpOptions, environ: Mapping[str, str]) -> int:
    """Run everything until a signal or the death of a part; return the exit code."""
    screen = open_screen(sys.stdout, environ)
    try:
        death = asyncio.run(_run(options, _machine(environ), _ports(options), screen))
    except (
        CannotStart,
        ConfigError,
        PortUnusable,
        embedded_valkey.ServerMissing,
        embedded_valkey.ServerFailed,
    ) as error:
        print(f"warmbase up: {error}", file=sys.stderr)
        return 1
    if death is None:
        return 0
    print(f"warmbase up: {death_text(death)}", file=sys.stderr)
    return 1


async def _run(options: UpOptions, machine: Machine, ports: Ports, screen: Screen) -> Death | None:
    """Start all, wait for the end, stop all; return who died if that was the reason."""
    stop = asyncio.Event()
    async with aiohttp.ClientSession() as http:
        system = System(screen, partial(ask, http), _line_printer(screen, verbose=options.verbose))
        _listen_to_signals(stop, system)
        serving = asyncio.create_task(_serve(system, options, machine, ports, screen))
        death = asyncio.create_task(system.first_death())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((serving, death, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in (serving, stopping):
                waiting.cancel()
            screen.settle()
            try:
                await system.stop()
            finally:
                system.kill()
        with suppress(asyncio.CancelledError):
            await serving  # raises what kept it from starting
        return death.result() if death.done() else None


async def _serve(system: System, options: UpOptions, machine: Machine, ports: Ports, screen: Screen) -> None:
    """Start all parts, say so when they are ready, and serve until cancelled."""
    started = time.monotonic()
    hubs = (hub_child(machine, ports.hub),) if options.demo else ()
    for hub in hubs:
        await system.start(hub)
    redis_url = await _redis(system, options.redis_url, screen)
    await system.until_ready(*hubs)
    demo_hub = local_url("", ports.hub) if options.demo else None
    common = common_environ(machine, redis_url, demo_hub)
    workers = worker_children(options, common, ports.workers, machine.cores)
    children = (router_child(options, common, ports.router), *workers)
    for child in children:
        await system.start(child)
    await system.until_ready(*children)
    screen.settle()
    served = [worker_config(worker.environ).served for worker in workers]
    screen.say(ready_text(local_url(options.host, ports.router), served, time.monotonic() - started))
    await asyncio.Event().wait()


async def _redis(system: System, url: str | None, screen: Screen) -> str:
    """Return the address of the Redis to use: the given one if it answers, else of a server started here.

    Raises:
        CannotStart: the given one does not answer.
    """
    started = time.monotonic()
    if url is None:
        server = embedded_valkey.start()
        system.adopt(Role.VALKEY, "valkey", ValkeyPart(server))
        url = server.url
    else:
        await _check_redis(url)
    seconds = time.monotonic() - started
    screen.show(Status(name="valkey", stage="ready", seconds=seconds, ready=True))
    return url


async def _check_redis(url: str) -> None:
    try:
        with translate_errors():
            async with command_client(url) as redis:
                await redis.ping()
    except (QueueUnavailable, RedisError) as error:
        raise CannotStart(why_unavailable(error, url)) from error


def _listen_to_signals(stop: asyncio.Event, system: System) -> None:
    """The first signal stops in order, a second one kills."""

    def on_signal() -> None:
        if stop.is_set():
            system.kill()
        stop.set()

    for number in _STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, on_signal)


def _line_printer(screen: Screen, *, verbose: bool) -> LineHandler:
    def on_line(spec: ChildSpec, line: str) -> None:
        text = for_people(spec.name, parse(line), verbose=verbose, coloured=screen.coloured)
        if text is not None:
            screen.say(text)

    return on_line


def _ports(options: UpOptions) -> Ports:
    """Choose the ports.

    Raises:
        PortUnusable: the one that was asked for is taken.
    """
    if options.port:
        check_port(options.host, options.port)
    router, hub, *workers = free_ports(2 + len(options.bases))
    return Ports(router=options.port or router, hub=hub, workers=tuple(workers))


def _machine(environ: Mapping[str, str]) -> Machine:
    downloads = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Machine(
        environ=environ,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        demo_home=downloads / "warmbase" / "demo",
        secret=secrets.token_urlsafe(32),
    )
