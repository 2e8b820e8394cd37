"""`warmbase up` as a process, around stubs of router and worker: starting, stopping, and every way to die."""

import re
import signal
import socket

import pytest
from redis import Redis

from tests.e2e.processes import until

BASES = ("--base", "lab/first", "--base", "lab/second")


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "journal"
    path.touch()
    return lambda: path.read_text().splitlines()


def test_it_tells_how_far_each_part_is_and_how_to_go_on(start_stubs):
    up = start_stubs(*BASES).ready()
    for name in ("valkey", "router", "worker first", "worker second"):
        assert re.search(rf"^\[{name}\] ready in \d+\.\d s$", up.output, re.MULTILINE), up.output
    assert "[worker first] loading" in up.lines
    assert f"  curl {up.url}/models/lab/first -H " in up.output
    assert "Warm: lab/first, lab/second" in up.lines
    assert "Ctrl-C stops everything." in up.lines


def test_it_shows_what_needs_attention_and_hides_the_rest(start_stubs):
    up = start_stubs(*BASES).ready()
    assert "[worker first] warning: a warning (of=worker)" in up.lines
    assert "only --verbose shows this" not in up.output


def test_what_the_terminal_has_no_letters_for_is_shown_as_numbers(start_stubs):
    up = start_stubs("--base", "lab/first", STUB_SAYS="to Łódź", PYTHONIOENCODING="ascii").ready()
    assert r"[worker first] warning: to \u0141\xf3d\u017a (of=worker)" in up.lines


def test_verbose_shows_all(start_stubs):
    assert "[router] only --verbose shows this" in start_stubs(*BASES, "--verbose").ready().lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_stops_everything_in_order_with_success(start_stubs, journal, number):
    up = start_stubs("--base", "lab/first").ready()
    up.signal(number)
    assert up.end() == 0
    assert journal() == [
        "router is asked to stop",
        "router has stopped",
        "worker is asked to stop",
        "worker has stopped",
    ]
    assert "[valkey] stopped" in up.lines[-1]
    assert up.survivors() == []


def test_a_signal_while_it_starts_stops_everything(start_stubs):
    up = start_stubs(*BASES)
    until(lambda: "[worker first] loading" in up.lines, 60, "the worker loads")
    up.signal(signal.SIGTERM)
    assert up.end() == 0
    assert "is ready" not in up.output
    assert up.survivors() == []


def test_a_second_signal_kills_what_will_not_stop(start_stubs, journal):
    up = start_stubs(*BASES, STUB_STUBBORN="router").ready()
    up.signal(signal.SIGINT)
    until(lambda: "router is asked to stop" in journal(), 60, "the router is asked to stop")
    up.signal(signal.SIGINT)
    up.end()
    assert "router has stopped" not in journal()
    assert up.survivors() == []


def test_a_child_that_cannot_start_ends_everything_and_is_named_with_its_last_lines(start_stubs):
    up = start_stubs("--base", "lab/first", STUB_CRASH="worker")
    assert up.end() == 1
    assert "worker first ended by itself with exit code 7, so everything was stopped" in up.output
    assert "  the reason why" in up.lines
    assert up.survivors() == []


def test_a_child_that_dies_later_ends_everything_and_is_named(start_stubs):
    up = start_stubs(*BASES).ready()
    up.child("worker", "WARMBASE_BASE=lab/second").kill()
    assert up.end() == 1
    assert "worker second was ended by SIGKILL, so everything was stopped" in up.output
    assert up.survivors() == []


def test_a_dead_queue_ends_everything_and_is_named(start_stubs):
    up = start_stubs(*BASES).ready()
    (server,) = [
        process for process in up.survivors() if "valkey" in process.name() or "redis" in process.name()
    ]
    server.kill()
    assert up.end() == 1
    assert "valkey was ended by SIGKILL" in up.output
    assert up.survivors() == []


def test_killing_the_launcher_leaves_no_process(start_stubs):
    up = start_stubs(*BASES).ready()
    assert len(up.survivors()) == 5
    up.signal(signal.SIGKILL)
    up.process.wait()
    until(lambda: up.survivors() == [], 10, "no process is left")


def test_it_serves_on_and_stops_in_order_when_nobody_reads_its_output(start_stubs, journal):
    up = start_stubs("--base", "lab/first").ready()
    up.stop_reading()
    up.signal(signal.SIGTERM)
    assert up.end() == 0
    assert "worker has stopped" in journal()
    assert up.survivors() == []


def test_a_taken_port_is_refused_with_what_to_do(start_stubs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = start_stubs(*BASES, "--port", str(port))
        assert up.end() == 1
    assert re.fullmatch(
        rf"warmbase up: cannot listen on 127\.0\.0\.1 port {port}: .*another with --port.*", up.output
    )


def test_a_redis_that_does_not_answer_is_named_without_its_password(start_stubs):
    up = start_stubs(*BASES, "--redis", "redis://:swordfish@127.0.0.1:1/0")
    assert up.end() == 1
    assert "Redis at 127.0.0.1:1 does not answer" in up.output
    assert "swordfish" not in up.output
    assert up.survivors() == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel://127.0.0.1:1,127.0.0.1:2/queue", "Redis at 127.0.0.1:1,127.0.0.1:2 does not"),
        ("redis+cluster://127.0.0.1:1,127.0.0.1:2", "Redis at 127.0.0.1:1,127.0.0.1:2 does not"),
        ("unix:///nowhere/redis.sock", "Redis does not"),
    ],
)
def test_so_is_one_behind_any_other_kind_of_address(start_stubs, url, said):
    up = start_stubs(*BASES, "--redis", url)
    assert up.end() == 1
    assert f"warmbase up: {said}" in up.output
    assert "Traceback" not in up.output


def test_a_base_with_a_file_for_its_denoiser_is_named_by_the_file_s_repository(start_stubs):
    up = start_stubs("--base", "lab/first", WARMBASE_DENOISER_FILE="lab/small/model-Q4_0.gguf").ready()
    assert "Warm: lab/small" in up.lines
    assert f"  curl {up.url}/models/lab/small -H " in up.output


def test_an_own_redis_is_used_and_outlives_it(start_stubs, redis_url):
    up = start_stubs(*BASES, "--redis", redis_url).ready()
    assert up.child("router", f"REDIS_URL={redis_url}")
    up.signal(signal.SIGTERM)
    assert up.end() == 0
    with Redis.from_url(redis_url) as redis:
        assert redis.ping()
