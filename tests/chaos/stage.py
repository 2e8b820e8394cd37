"""What a run happens on: a server that keeps its data, a Hub, routers and workers, and links between them.

All processes are children that end with this one, whatever happens to it.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import redis

from deploy.local_hub.server import LocalHubConfig, serve
from deploy.parent_death import with_parent
from shared.queue.queue import JobQueue
from shared.queue.terms import QueueSettings
from shared.redis_client import command_client
from shared.refs import base_tag
from tests.builders import BASE
from tests.chaos.history import History
from tests.chaos.plan import NEVER, REPOSITORIES, TENANTS
from tests.fault_proxy import FaultProxy, Link
from tests.servers import DURABLE, Server, Servers

ROOT = Path(__file__).parents[2]
LEASE = 2.0
REQUEST_TIMEOUT = 60.0
DRAIN = 5.0
STEP_SECONDS = 0.01
PATIENCE = 60.0
"""Seconds that anything may take that is sure to happen."""
FEEL_EVERY = 0.25
LATE = 0.2
RAM_BUDGET = 24 << 10
WEIGHTS_BYTES = 1 << 10
"""A worker's RAM holds fewer adapters than there are: each is loaded again and again."""


@dataclass(slots=True)
class Place:
    """A process that is started again when it has ended.

    Attributes:
        link: its own way to the server.
        in_trouble: somebody is at it; nobody else may be, and its end is no surprise.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    link: Link
    url: str
    process: subprocess.Popen[bytes] = field(init=False)
    in_trouble: bool = False

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                with_parent(self.command), cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Return its exit code once it has ended; an error when it does not."""
        async with asyncio.timeout(PATIENCE):
            while self.process.poll() is None:  # noqa: ASYNC110 - a process tells nobody here
                await asyncio.sleep(0.02)
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()  # also one that is frozen
        self.process.wait()


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Everything, ready.

    Attributes:
        look: a link that nobody does anything to.
        digests: of each repository's weight file, by its number.
    """

    folder: Path
    history: History
    server: Server
    look: Link
    routers: Sequence[Place]
    workers: Sequence[Place]
    digests: Sequence[str]

    @property
    def places(self) -> tuple[Place, ...]:
        return (*self.routers, *self.workers)

    async def server_answers(self) -> None:
        """Return once it does."""
        async with asyncio.timeout(PATIENCE):
            while not self.server.answers():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)

    async def answers(self, place: Place) -> None:
        """Return once a router or worker does; one that is told to end before has no manners yet."""
        await self._until_true(place.url + "/health", lambda _: True)

    async def all_are_there(self) -> None:
        """Return once each router knows of all workers."""
        pids = {str(worker.process.pid) for worker in self.workers}

        def knows_all(info: Any) -> bool:
            known = [worker["id"] for base in info["bases"] for worker in base["workers"]]
            return pids <= {worker.split("-")[-2] for worker in known}

        for router in self.routers:
            await self._until_true(router.url + "/info", knows_all)

    async def _until_true(self, url: str, is_so: Callable[[Any], bool]) -> None:
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(url) as answer:
                        if answer.status == 200 and is_so(await answer.json()):
                            return
                await asyncio.sleep(0.05)

    async def watch(self) -> None:
        """Note every process that ends though nobody ended it, and start it again. For ever."""
        while True:
            for place in self.places:
                if not place.in_trouble and place.process.poll() is not None:
                    code = place.process.returncode
                    self.history.note("exited", process=place.name, code=code, asked=False)
                    place.start()
            await asyncio.sleep(0.1)

    async def feel(self) -> None:
        """Note what answers late, for ever: on a machine that is overrun, silence is nobody's fault."""
        async with command_client(self.look.url) as server, aiohttp.ClientSession() as http:
            due = time.monotonic()  # not when it begins: this process may be kept waiting as well
            while True:
                looks = [self._timed("server", server.ping(), due)]
                looks += [self._timed(router.name, _look(http, router), due) for router in self.routers]
                await asyncio.gather(*looks)
                due = time.monotonic() + FEEL_EVERY
                await asyncio.sleep(FEEL_EVERY)

    async def _timed(self, target: str, answer: Awaitable[object], begin: float) -> None:
        with contextlib.suppress(redis.RedisError, aiohttp.ClientError, TimeoutError):
            await answer
        seconds = time.monotonic() - begin
        if seconds > LATE:
            self.history.note("late", target=target, seconds=seconds)

    async def settled(self) -> None:
        """Return once no job waits or runs, or after the time by which each must have ended."""
        async with command_client(self.server.url) as client:
            queue = JobQueue(client, base_tag(BASE), QueueSettings())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REQUEST_TIMEOUT + 30):
                    while await queue.depth() != (0, 0):  # noqa: ASYNC110 - it is other processes' work
                        await asyncio.sleep(0.1)

    async def leave(self) -> None:
        """Tell all routers and workers to end, and note how they did."""
        for place in self.places:
            place.in_trouble = True
            place.signal(signal.SIGTERM)
        for place in self.places:
            self.history.note("exited", process=place.name, code=await place.ended(), asked=True)


@asynccontextmanager
async def a_stage(folder: Path, history: History, *, routers: int, workers: int) -> AsyncIterator[Stage]:
    """Set everything up in an empty folder, and take it down whatever happens."""
    digests = _write_hub(folder / "hub")
    servers = Servers(folder)
    async with AsyncExitStack() as stack:
        stack.callback(servers.kill_all)
        server = servers.start(
            *DURABLE,
            "auto-aof-rewrite-percentage 0",  # the file is the account of the whole run
            port=_a_lasting_port(),
        )
        hub = await stack.enter_async_context(serve(LocalHubConfig(root=folder / "hub")))
        proxy = await stack.enter_async_context(FaultProxy(server.url, seed=0))
        stage = Stage(
            folder=folder,
            history=history,
            server=server,
            look=await proxy.listen(),
            routers=[
                _router(number, folder, await proxy.listen(), hub.url, _a_lasting_port())
                for number in range(routers)
            ],
            workers=[
                _worker(number, folder, await proxy.listen(), hub.url, _a_lasting_port())
                for number in range(workers)
            ],
            digests=digests,
        )
        for place in stage.places:
            place.start()
            stack.callback(place.kill)
        await stage.all_are_there()
        for loop in (stage.watch(), stage.feel()):
            stack.push_async_callback(_end, asyncio.create_task(loop))
        yield stage


async def _look(http: aiohttp.ClientSession, router: Place) -> None:
    async with http.get(f"{router.url}/health") as answer:
        await answer.read()


async def _end(loop: asyncio.Task[None]) -> None:
    loop.cancel()
    await asyncio.wait([loop])


def _router(number: int, folder: Path, link: Link, hub: str, port: int) -> Place:
    return Place(
        name=f"router {number}",
        command=[sys.executable, "-m", "tests.chaos.router"],
        environment=_environment(
            link, hub, WARMBASE_PORT=str(port), WARMBASE_REQUEST_TIMEOUT=str(REQUEST_TIMEOUT)
        ),
        log=folder / f"router-{number}.log",
        link=link,
        url=f"http://127.0.0.1:{port}",
    )


def _worker(number: int, folder: Path, link: Link, hub: str, port: int) -> Place:
    draws = folder / f"draws-{number}.jsonl"
    limits = ["--max-crashes", str(NEVER), "--max-adapter-crashes", str(NEVER)]
    return Place(
        name=f"worker {number}",
        command=[
            *(sys.executable, "-m", "tests.null_worker", "--lease", str(LEASE), "--draws", str(draws)),
            *("--step-seconds", str(STEP_SECONDS), *limits),
        ],
        environment=_environment(
            link,
            hub,
            HF_HOME=str(folder / f"disk-{number}"),
            WARMBASE_BASE=BASE,
            WARMBASE_PROBE_PORT=str(port),
            WARMBASE_DRAIN=str(DRAIN),
            WARMBASE_RAM_BUDGET=str(RAM_BUDGET),
        ),
        log=folder / f"worker-{number}.log",
        link=link,
        url=f"http://127.0.0.1:{port}",
    )


def _environment(link: Link, hub: str, **own: str) -> dict[str, str]:
    theirs = {key: value for key, value in os.environ.items() if not key.startswith(("WARMBASE_", "HF_"))}
    return {**theirs, "REDIS_URL": link.url, "HF_ENDPOINT": hub, "WARMBASE_LOG_LEVEL": "warning", **own}


def repository(number: int) -> str:
    """Return the id of an adapter on the Hub."""
    return f"chaos/adapter-{number:03}"


def token(tenant: int) -> str:
    """Return what a tenant's clients bring."""
    return f"hf_tenant_{tenant}"


def _write_hub(root: Path) -> list[str]:
    """Write the repositories; return the digests of the adapters' weight files."""
    base = root / BASE
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\npipeline_tag: text-to-image\n---\n")
    (base / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    digests = []
    for number in range(REPOSITORIES):
        weights = (2).to_bytes(8, "little") + b"{}" + number.to_bytes(2, "little") * (WEIGHTS_BYTES // 2)
        folder = root / repository(number)
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(f"---\nbase_model: {BASE}\ntags: [lora, diffusers]\n---\n")
        (folder / "pytorch_lora_weights.safetensors").write_bytes(weights)
        digests.append(sha256(weights).hexdigest())
    tokens = "".join(f"{token(tenant)}: tenant-{tenant}\n" for tenant in range(TENANTS))
    (root / ".hub-tokens.yaml").write_text(tokens)
    return digests


def _a_lasting_port() -> int:
    """Return a port that no outgoing connection gets while its owner is away."""
    while True:
        port = random.randint(15000, 30000)  # noqa: S311 - below what the system hands out
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
