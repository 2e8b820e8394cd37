"""What `warmbase up` starts: which parts with which environment, in which order. Decisions only, no I/O."""

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from shared.config import worker_config
from shared.refs import RepoId, parse_repo_id

LOOPBACK = "127.0.0.1"
DEMO_BASES = (RepoId("warmbase/shapes-xl"), RepoId("warmbase/shapes-sd"))
DEMO_REPOSITORIES = Path(__file__).parent / "demo" / "hub"

SECONDS_TO_GIVE_BACK = 10.0
"""For a worker whose drain is over, to put its job back and end."""

_PACKAGES = Path(__file__).parents[1]

# Variables that would lead the demo away from its local Hub, or a person's own token into it.
_HUB_PREFIXES = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_")


class Role(StrEnum):
    """What a part is for."""

    VALKEY = "valkey"
    HUB = "hub"
    ROUTER = "router"
    WORKER = "worker"


STOP_ORDER = (Role.ROUTER, Role.WORKER, Role.HUB, Role.VALKEY)
"""The router first: it answers those who wait, while workers still draw for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildSpec:
    """How a child process is started, told ready, and stopped.

    Attributes:
        name: what people call it, as in `worker shapes-xl`.
        environ: its whole environment.
        ready_url: answers 200 once it is ready.
        grace: seconds that it gets to end by itself after SIGTERM.
    """

    role: Role
    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    ready_url: str
    grace: float


@dataclass(frozen=True, kw_only=True, slots=True)
class UpOptions:
    """What `warmbase up` was asked for. None leaves a choice to the environment.

    Attributes:
        redis_url: an own Redis or Valkey; None starts an embedded one.
        verbose: show all that the parts log, not only what needs attention.
    """

    demo: bool
    bases: tuple[RepoId, ...]
    redis_url: str | None
    host: str
    port: int
    device: str | None
    dtype: str | None
    verbose: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the plan takes from the machine it runs on.

    Attributes:
        environ: the environment of `warmbase up`.
        demo_home: a directory for what the demo downloads, away from the person's own downloads.
        secret: a fresh random one, for when none is set.
    """

    environ: Mapping[str, str]
    cores: int
    demo_home: Path
    secret: str


def choose_bases(demo: bool, named: Sequence[str]) -> tuple[RepoId, ...]:
    """Return the bases to serve.

    Raises:
        ValueError: none, one twice, or one that is no model id; the message is for people.
        InvalidRequest: the same, for an id that breaks the Hub's rules.
    """
    if not named:
        if not demo:
            raise ValueError("name at least one base model with --base, or use --demo")
        return DEMO_BASES
    twice = [name for name, times in Counter(named).items() if times > 1]
    if twice:
        raise ValueError(f"--base {twice[0]} is given twice")
    return tuple(parse_repo_id(name, "--base") for name in named)


def hub_child(machine: Machine, port: int) -> ChildSpec:
    """Return the local Hub of the demo."""
    return ChildSpec(
        role=Role.HUB,
        name="hub",
        argv=(
            *_run("deploy.local_hub", "--root", str(DEMO_REPOSITORIES)),
            *("--host", LOOPBACK, "--port", str(port)),
        ),
        environ=_with_packages(machine.environ),
        ready_url=f"http://{LOOPBACK}:{port}/health",
        grace=5.0,
    )


def common_environ(machine: Machine, redis_url: str, demo_hub: str | None) -> dict[str, str]:
    """Return the environment that router and workers share; `demo_hub` is the local Hub's address."""
    environ = _with_packages(machine.environ)
    if demo_hub is not None:
        environ = {name: value for name, value in environ.items() if not name.startswith(_HUB_PREFIXES)}
        environ |= {
            "HF_ENDPOINT": demo_hub,
            "HF_HOME": str(machine.demo_home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": _without_proxy(environ, "NO_PROXY"),
            "no_proxy": _without_proxy(environ, "no_proxy"),
        }
    environ["REDIS_URL"] = redis_url
    environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    environ["WARMBASE_SECRET"] = environ.get("WARMBASE_SECRET") or machine.secret
    return environ


def router_child(options: UpOptions, common: Mapping[str, str], port: int) -> ChildSpec:
    """Return the router."""
    return ChildSpec(
        role=Role.ROUTER,
        name="router",
        argv=_run("router"),
        environ={**common, "WARMBASE_HOST": options.host, "WARMBASE_PORT": str(port)},
        ready_url=f"{local_url(options.host, port)}/ready",
        grace=45.0,  # aiohttp waits for its drain time twice: for answers, then for cancelled handlers
    )


def worker_children(
    options: UpOptions, common: Mapping[str, str], ports: Sequence[int], cores: int
) -> tuple[ChildSpec, ...]:
    """Return one worker for each base; `ports` are their probe ports.

    Raises:
        ConfigError: a variable holds a value that cannot be used.
    """
    names = worker_names(options.bases)
    choices = {"WARMBASE_DEVICE": options.device, "WARMBASE_DTYPE": options.dtype}
    environ = {**common, **{name: value for name, value in choices.items() if value}}
    environ["WARMBASE_HOST"] = LOOPBACK
    # Threads that wait for each other by spinning take the cores from those they wait for: on a machine that
    # does something else besides, a picture then takes ten times as long.
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if len(names) > 1:
        # Each would take all cores, and together they would be slower than in turn.
        environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // len(names))))
    own = [
        {**environ, "WARMBASE_BASE": base, "WARMBASE_PROBE_PORT": str(port)}
        for base, port in zip(options.bases, ports, strict=True)
    ]
    return tuple(
        ChildSpec(
            role=Role.WORKER,
            name=name,
            argv=_run("worker"),
            environ=each,
            ready_url=f"http://{LOOPBACK}:{each['WARMBASE_PROBE_PORT']}/ready",
            grace=worker_config(each).drain + SECONDS_TO_GIVE_BACK,
        )
        for name, each in zip(names, own, strict=True)
    )


def worker_names(bases: Sequence[RepoId]) -> tuple[str, ...]:
    """Return what to call each base's worker: by the short name where that is clear."""
    short = [base.partition("/")[2] for base in bases]
    clear = Counter(short)
    return tuple(
        f"worker {name if clear[name] == 1 else base}" for name, base in zip(short, bases, strict=True)
    )


def local_url(host: str, port: int) -> str:
    """Return the address at which a server that listens on `host` answers on this machine."""
    if host in {"0.0.0.0", ""}:  # noqa: S104 - compared, not bound
        host = LOOPBACK
    if host == "::":
        host = "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _run(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line of a module; -P: a folder of that name where a person stands is not meant."""
    return (sys.executable, "-P", "-m", module, *arguments)


def _with_packages(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` so that children find the packages of Warmbase, also in a bare checkout."""
    paths = filter(None, (environ.get("PYTHONPATH"), str(_PACKAGES)))
    return {**environ, "PYTHONPATH": os.pathsep.join(paths)}


def _without_proxy(environ: Mapping[str, str], name: str) -> str:
    return ",".join(filter(None, (environ.get(name), LOOPBACK, "localhost")))
