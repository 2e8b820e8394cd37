"""What every test shares: its marker, and a real server for those that need one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import redis
from hypothesis import HealthCheck, settings

from deploy import embedded_valkey
from tests.servers import redis_of_the_system, valkey

HERE = Path(__file__).parent
# Before torch is imported: threads that spin while they wait take the cores from the processes under test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How fast a machine is, is no property of the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

MARKED = {"unit", "integration", "e2e", "gpu"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--model-examples",
        type=int,
        default=520,
        help="histories of the queue that are compared with its model on all servers, 100 operations each",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with the folder it lies in, so that nobody forgets to."""
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        if folder in MARKED:
            item.add_marker(folder)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[embedded_valkey.EmbeddedValkey]:
    """One private server for the whole run. Without a binary: skipped here, an error in CI."""
    try:
        server = embedded_valkey.start(valkey())
    except embedded_valkey.ServerMissing as error:
        missing(str(error))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_binary() -> Path:
    """The installed Redis, beside the Valkey that all else runs on. Without it: as `redis_server`."""
    return redis_of_the_system() or missing("no redis-server on PATH; the package redis-server brings it")


def missing(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture
def redis_url(redis_server: embedded_valkey.EmbeddedValkey) -> str:
    """The address of an empty server."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url
