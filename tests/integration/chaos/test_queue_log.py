"""The queue's account of a run is complete, also across a server that was killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.jobs import WorkerId
from shared.queue.keys import BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import QueueSettings
from shared.redis_client import command_client
from shared.refs import base_tag
from tests.builders import BASE, a_job, a_result
from tests.chaos.queue_log import read_queue_log
from tests.servers import Server, Servers, until
from tests.steps import claim_one


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    servers = Servers(tmp_path)
    yield servers.start("appendonly yes", 'save ""')
    servers.kill_all()


async def test_it_tells_every_state_of_a_job_in_order_across_a_kill(server: Server) -> None:
    job, worker = a_job(adapters=()), WorkerId("host-1-ab")
    async with command_client(server.url) as redis:
        queue = JobQueue(redis, base_tag(BASE), QueueSettings())
        await queue.enqueue(job)
        first = await claim_one(queue, worker, "1")
        await queue.release(first)
        server.kill()
        server.start_again()
        until(server.answers)
        second = await claim_one(queue, worker, "2")
        await queue.complete(second, a_result(blob=f"{job.id}-{second.fence}"))
    server.kill()

    events = list(read_queue_log(server.folder))
    assert [event["status"] for event in events] == ["added", "running", "queued", "running", "succeeded"]
    assert {event["job"] for event in events} == {job.id}
    assert (events[0]["prompt"], events[0]["seed"]) == (job.params.prompt, job.params.seed)
    assert [events[1]["fence"], events[3]["fence"]] == [first.fence, second.fence]
    assert events[4]["blob"] == f"{job.id}-{second.fence}"


async def test_a_job_that_was_unwanted_for_a_while_is_told_as_such(server: Server) -> None:
    job, worker = a_job(adapters=()), WorkerId("host-1-ab")
    async with command_client(server.url) as redis:
        queue = JobQueue(redis, base_tag(BASE), QueueSettings())
        await queue.enqueue(job, router="router-1")
        await redis.zadd(BaseKeys(base_tag(BASE)).routers, {"router-1": 1})
        assert await claim_one(queue, worker, "1") is None
        await queue.enqueue(job, router="router-1")
        await queue.cancel(job.id)
    server.kill()

    events = list(read_queue_log(server.folder))
    assert [(event["status"], event.get("unwanted")) for event in events] == [
        ("added", None),
        ("cancelled", True),
        ("queued", None),
        ("cancelled", False),
    ]
