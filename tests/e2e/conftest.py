"""Running systems for the tests: the demo once for all, and others that a test may break."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.client import Answer, Client
from tests.e2e.processes import ROOT, Up, started_specs

STUBS = Path(__file__).parent / "stubs"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The demo, ready: both bases, an empty cache of downloads."""
    up = Up("--demo", XDG_CACHE_HOME=str(tmp_path_factory.mktemp("downloads")))
    try:
        yield up.ready()
    finally:
        up.close()


@pytest.fixture(scope="session")
def client(demo: Up) -> Client:
    """A client of the demo."""
    return Client(demo.url)


@pytest.fixture
def in_background() -> Iterator[Callable[..., Future[Answer]]]:
    """Calls a function in another thread."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit


@pytest.fixture
def start_specs() -> Iterator[Callable[..., None]]:
    """Starts children of the launcher without the launcher, and returns once they are ready."""
    with started_specs() as start:
        yield start


@pytest.fixture
def start_up() -> Iterator[Callable[..., Up]]:
    """Starts `warmbase up` with the given arguments and environment, and ends it after the test."""
    running: list[Up] = []

    def start(*arguments: str, **environ: str) -> Up:
        running.append(Up(*arguments, **environ))
        return running[-1]

    yield start
    for up in running:
        up.close()


@pytest.fixture
def start_stubs(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """As `start_up`, but router and worker are stubs (`stubs/stub_part.py`)."""
    running: list[Up] = []

    def start(*arguments: str, **environ: str) -> Up:
        journal = str(tmp_path / "journal")
        running.append(
            Up(*arguments, PYTHONPATH=f"{STUBS}{os.pathsep}{ROOT}", STUB_JOURNAL=journal, **environ)
        )
        return running[-1]

    yield start
    for up in running:
        up.close()


@pytest.fixture
def curl() -> str:
    """The path of curl."""
    path = shutil.which("curl")
    assert path, "the printed command lines are for curl; install it"
    return path
