"""What breaks while pictures are drawn: a worker, or the server of the queue. Clients notice little."""

import signal
import subprocess
import time
from contextlib import suppress

import psutil
import pytest
from redis import Redis, RedisError

from deploy import plan
from deploy.parent_death import with_parent
from deploy.ports import free_ports
from tests.e2e.client import Client
from tests.e2e.processes import busy_workers, clean_environ, until
from tests.servers import valkey

BASE = "warmbase/shapes-xl"


@pytest.fixture
def two_workers(tmp_path, redis_url, start_specs):
    """A client of a router with two workers of one base. Nobody stops the others when one dies."""
    hub_port, router_port, *worker_ports = free_ports(4)
    machine = plan.Machine(environ=clean_environ(), cores=2, demo_home=tmp_path, secret="secret")
    options = plan.UpOptions(
        demo=True,
        bases=(BASE, BASE),
        redis_url=redis_url,
        host=plan.LOOPBACK,
        port=router_port,
        device=None,
        dtype=None,
        verbose=False,
    )
    common = plan.common_environ(machine, redis_url, plan.local_url(plan.LOOPBACK, hub_port))
    start_specs(plan.hub_child(machine, hub_port))
    start_specs(
        plan.router_child(options, common, router_port),
        *plan.worker_children(options, common, worker_ports, cores=2),
    )
    return Client(plan.local_url(plan.LOOPBACK, router_port))


def test_a_client_gets_its_picture_although_the_worker_dies(two_workers, redis_url, in_background):
    asked = {"model": "warmbase/outline", "num_inference_steps": 60}
    drawn = in_background(two_workers.draw, **asked)
    until(lambda: busy_workers(redis_url), 60, "the job runs")
    (worker,) = busy_workers(redis_url)
    psutil.Process(worker).send_signal(signal.SIGKILL)
    answer = drawn.result()
    assert answer.picture == two_workers.draw(**asked).picture
    assert worker not in busy_workers(redis_url)


class OwnValkey:
    """A server on one port that can be killed and started again, empty."""

    def __init__(self):
        (self.port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process = None

    def start(self):
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen(
            with_parent([str(valkey()), *options]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self.answers, 30, "the server answers")

    def answers(self):
        with suppress(RedisError), Redis.from_url(self.url, retry=None) as redis:
            return redis.ping()

    def kill(self):
        self.process.kill()
        self.process.wait()


def test_without_redis_it_says_so_at_once_and_serves_again_by_itself(start_up, tmp_path):
    server = OwnValkey()
    server.start()
    try:
        up = start_up("--demo", "--base", BASE, "--redis", server.url, XDG_CACHE_HOME=str(tmp_path)).ready()
        client = Client(up.url)
        before = client.draw("warmbase/outline").picture
        server.kill()
        until(lambda: client.get("/ready").status == 503, 30, "the router says that it is not ready")
        asked = time.monotonic()
        answer = client.draw("warmbase/outline")
        assert time.monotonic() - asked < 10, "it should refuse within a second"
        assert answer.status == 503
        assert answer.headers["x-error-code"] == "queue_unavailable"
        assert int(answer.headers["retry-after"]) > 0
        server.start()
        until(lambda: client.get("/ready").status == 200, 60, "the router is ready again")
        # until every worker has been heard of again, a refusal may still follow a picture
        until(lambda: client.draw("warmbase/outline").body == before, 60, "the same picture is drawn again")
        up.signal(signal.SIGTERM)
        assert up.end() == 0
    finally:
        server.kill()


def test_a_worker_that_dies_ends_warmbase_up_and_is_named(start_up, tmp_path):
    up = start_up("--demo", "--base", BASE, XDG_CACHE_HOME=str(tmp_path)).ready()
    up.child("worker").kill()
    assert up.end() == 1
    assert "worker shapes-xl was ended by SIGKILL, so everything was stopped" in up.output
    assert up.survivors() == []
