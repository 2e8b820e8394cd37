"""The process as operators run it: `python -m router`."""

import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from deploy.ports import free_ports
from shared.results.file_store import LOCK

LARGEST_RSS = 150 << 20
FOREIGN = ("torch", "diffusers", "transformers", "peft", "PIL", "numpy", "worker", "deploy")


def environment(**variables):
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}


@pytest.fixture
def process(redis_url):
    (port,) = free_ports(1)
    variables = environment(REDIS_URL=redis_url, WARMBASE_PORT=str(port), HF_ENDPOINT="http://127.0.0.1:9")
    with subprocess.Popen([sys.executable, "-m", "router"], env=variables, stderr=subprocess.PIPE) as running:
        yield running, port
        running.kill()


def is_ready(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except ConnectionError:
        return False
    finally:
        connection.close()


def wait_until_ready(port):
    for _ in range(600):
        if is_ready(port):
            return
        time.sleep(0.05)
    raise AssertionError("the router never became ready")


STRANGERS = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"POST /models/a/b HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone",
    b"POST /models/a/b HTTP/1.1\r\nHost: a\r\nContent-Encoding: br\r\nContent-Length: 4\r\n\r\nnone",
    b"POST /models/a/b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n",
)


def test_what_is_no_proper_http_is_answered_and_no_fault_in_the_log(process):
    running, port = process
    wait_until_ready(port)
    for sent in STRANGERS:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(sent)
            assert connection.recv(100).startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0
    assert b"Traceback" not in running.stderr.read()


def test_it_serves_in_little_memory_and_ends_when_told(process):
    running, port = process
    wait_until_ready(port)
    assert psutil.Process(running.pid).memory_info().rss < LARGEST_RSS

    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0
    assert b"Traceback" not in running.stderr.read()


@pytest.fixture
def hanging(tmp_path):
    """The address of a store of files whose lock somebody holds who does not go on."""
    with (tmp_path / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield f"file://{tmp_path}"


def test_it_ends_when_told_although_a_thread_waits_for_a_disk_that_hangs(hanging):
    code = f"""
import asyncio
from shared.logs import end_process
from shared.results.opening import open_results
from tests.builders import a_lease

async def main():
    async with open_results({hanging!r}, ttl=60, most_bytes=100) as results:
        async with asyncio.timeout(0.1):
            await results.put(a_lease(), b"image")

try:
    asyncio.run(main())
except TimeoutError:
    end_process(7)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 7


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WARMBASE_PORT", "many", "WARMBASE_PORT='many'"),
        (
            "REDIS_URL",
            "redis://:hunter2@h?nonsense=1",
            "REDIS_URL: the option nonsense is not known: leave it out",
        ),
    ],
)
def test_a_wrong_variable_is_named_and_nothing_runs(name, value, said):
    done = subprocess.run(
        [sys.executable, "-m", "router"],
        env=environment(**{name: value}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 2
    assert said in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(redis_url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "router"],
            env=environment(WARMBASE_PORT=str(port), REDIS_URL=redis_url),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_loads_nothing_of_the_worker():
    code = "import sys, router.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert not {name.partition(".")[0] for name in done.stdout.split()} & set(FOREIGN)


def test_help_names_the_variables_and_starts_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "router", "--help"], capture_output=True, text=True, check=True, timeout=60
    )

    assert "WARMBASE_PORT" in done.stdout
