"""What every test shares: its marker, and a real server for those that need one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

from deploy import embedded_valkey

HERE = Path(__file__).parent
# Before torch is imported: threads that spin while they wait take the cores from the processes under test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How fast a machine is, is no property of the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

MARKED = {"unit", "contracts", "integration", "e2e", "browser", "gpu"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--model-examples",
        type=int,
        default=500,
        help="histories of the queue that are compared with its model, 100 operations each",
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
        server = embedded_valkey.start()
    except embedded_valkey.ServerMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: embedded_valkey.EmbeddedValkey) -> str:
    """The address of an empty server."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url
