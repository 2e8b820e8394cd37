"""One process of `other_queues.py`, in the environment of the queue that it uses.

    python tests/bench/other_queues_worker.py QUEUE nothing|hold|work --jobs N --concurrency N

`nothing` puts jobs that do nothing into the queue, `hold` one that takes its time, `work` is a worker, with
the library's defaults but for the concurrency. Each library is used as its documentation shows. A worker
prints `started` when it begins with the long job. At its last job, or the first one after `LONGEST_SECONDS`,
it prints how many came after its first one, and the seconds they took.
"""

import argparse
import asyncio
import itertools
import os
import time
from importlib import import_module
from typing import Any

HOLD_SECONDS = 8.0
"""Below the ten seconds for which SAQ lets a job run."""

LONGEST_SECONDS = 10.0
IDLE_SECONDS = 2.0


class Jobs:
    """What the jobs do, whatever runs them."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._done = 0
        self._began = 0.0

    async def nothing(self) -> None:
        self._began = self._began or time.monotonic()
        self._done += 1
        took = time.monotonic() - self._began
        if self._done == self._expected or took > LONGEST_SECONDS:
            print(self._done - 1, took, flush=True)

    async def hold(self) -> None:
        print("started", flush=True)
        await asyncio.sleep(HOLD_SECONDS)


async def saq(given: argparse.Namespace, jobs: Jobs) -> None:
    module = import_module("saq")
    queue = module.Queue.from_url(given.url)

    async def nothing(_: Any) -> None:
        await jobs.nothing()

    async def hold(_: Any) -> None:
        await jobs.hold()

    if given.act == "work":
        functions = [("nothing", nothing), ("hold", hold)]
        await module.Worker(queue, functions=functions, concurrency=given.concurrency).start()
    else:
        await queue.connect()
        # what it calls retries are attempts
        options = {"retries": given.attempts} if given.attempts else {}
        for _ in range(given.jobs):
            await queue.enqueue(given.act, **options)
        await queue.disconnect()


async def arq(given: argparse.Namespace, jobs: Jobs) -> None:
    connections, worker = import_module("arq.connections"), import_module("arq.worker")
    settings = connections.RedisSettings.from_dsn(given.url)

    async def nothing(_: Any) -> None:
        await jobs.nothing()

    async def hold(_: Any) -> None:
        await jobs.hold()

    if given.act == "work":
        functions = [worker.func(nothing, name="nothing"), worker.func(hold, name="hold")]
        await worker.Worker(functions, redis_settings=settings, max_jobs=given.concurrency).main()
    else:
        redis = await connections.create_pool(settings)
        for _ in range(given.jobs):
            await redis.enqueue_job(given.act)
        await redis.aclose()


async def streaq(given: argparse.Namespace, jobs: Jobs) -> None:
    worker = import_module("streaq").Worker(redis_url=given.url, concurrency=given.concurrency)
    tasks = {act: worker.task(name=act)(getattr(jobs, act)) for act in ("nothing", "hold")}
    if given.act == "work":
        await worker.run_async()
    else:
        async with worker:
            await worker.enqueue_many([tasks[given.act].enqueue() for _ in range(given.jobs)])


async def taskiq(given: argparse.Namespace, jobs: Jobs) -> None:
    redis, receiver = import_module("taskiq_redis"), import_module("taskiq.api")
    broker = redis.RedisStreamBroker(given.url).with_result_backend(redis.RedisAsyncResultBackend(given.url))

    async def nothing() -> None:
        await jobs.nothing()

    async def hold() -> None:
        await jobs.hold()

    tasks = {task.__name__: broker.register_task(task, task_name=task.__name__) for task in (nothing, hold)}
    broker.is_worker_process = given.act == "work"
    await broker.startup()
    if given.act == "work":
        await receiver.run_receiver_task(broker, max_async_tasks=given.concurrency)
    else:
        for _ in range(given.jobs):
            await tasks[given.act].kiq()
        await broker.shutdown()


async def warmbase(given: argparse.Namespace, jobs: Jobs) -> None:
    builders, queues = import_module("tests.builders"), import_module("shared.queue.queue")
    clients, refs = import_module("shared.redis_client"), import_module("shared.refs")
    settings = queues.QueueSettings(max_waiting=given.jobs + 1, max_waiting_per_tenant=given.jobs + 1)
    redis, blocking = clients.command_client(given.url), clients.blocking_client(given.url, IDLE_SECONDS)
    queue = queues.JobQueue(redis, refs.base_tag(builders.BASE), settings)

    async def work(number: int) -> None:
        for count in itertools.count():
            leases = (await queue.claim(f"{os.getpid()}-{number}", str(count))).leases
            for lease in leases:
                await jobs.nothing()
                await queue.complete(lease, builders.a_result(adapters=lease.job.adapters))
            if not leases:
                await queue.wait_for_work(blocking, IDLE_SECONDS)

    if given.act == "work":
        await asyncio.gather(*(work(number) for number in range(given.concurrency)))
    else:
        for _ in range(given.jobs):
            await queue.enqueue(builders.a_job(timeout=3600.0))
        await redis.aclose()


QUEUES = {"warmbase": warmbase, "saq": saq, "arq": arq, "streaq": streaq, "taskiq": taskiq}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("queue", choices=list(QUEUES))
    parser.add_argument("act", choices=["nothing", "hold", "work"])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--attempts", type=int, default=0)
    given = parser.parse_args()
    given.url = os.environ["REDIS_URL"]
    asyncio.run(QUEUES[given.queue](given, Jobs(given.jobs)))


if __name__ == "__main__":
    main()
