import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis

from deploy import embedded_valkey
from tests.servers import valkey

ROOT = Path(__file__).parents[3]

START_AND_WAIT = """
from deploy import embedded_valkey
print(embedded_valkey.start().pid, flush=True)
input()
"""


@pytest.fixture(params=["valkey", "redis"])
def server(request):
    """A server of this test's own."""
    binary = valkey() if request.param == "valkey" else request.getfixturevalue("redis_binary")
    server = embedded_valkey.start(binary)
    yield server
    server.stop()


def test_it_answers_as_soon_as_start_returns(server):
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_it_refuses_a_client_without_the_password(server):
    address = urlsplit(server.url)
    with (
        redis.Redis(host=address.hostname, port=address.port) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_the_password_is_in_no_process_list(server):
    password = urlsplit(server.url).password
    assert password
    assert password not in " ".join(psutil.Process(server.pid).cmdline())


def test_it_persists_nothing_and_evicts_nothing(server):
    with redis.Redis.from_url(server.url) as client:
        settings = client.config_get("save", "appendonly", "maxmemory-policy")
    assert settings == {"save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}


def test_stopping_ends_it_and_may_be_repeated(server):
    server.stop()
    server.stop()
    assert not psutil.pid_exists(server.pid)


def test_it_dies_with_a_parent_that_is_killed(redis_server):
    with subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout
        server = psutil.Process(int(parent.stdout.readline()))
        assert server.is_running()
        parent.kill()
    gone, alive = psutil.wait_procs([server], timeout=20)
    assert (gone, alive) == ([server], [])


def test_what_a_failing_server_said_is_in_the_error(tmp_path):
    binary = tmp_path / "valkey-server"
    binary.write_text("#!/bin/sh\necho 'cannot allocate memory' >&2\nexit 1\n")
    binary.chmod(0o755)
    with pytest.raises(embedded_valkey.ServerFailed, match="cannot allocate memory"):
        embedded_valkey.start(binary)
