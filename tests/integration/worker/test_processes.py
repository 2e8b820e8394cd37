"""Whole worker processes: killed, stopped, frozen, told to end, and left without Redis."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from shared.config import WorkerConfig
from shared.errors import QueueUnavailable
from shared.jobs import JobId, JobStatus
from shared.queue.keys import BaseKeys
from shared.queue.terms import QueueSettings
from shared.redis_client import command_client
from tests import null_engine
from tests.builders import a_job, some_params
from tests.integration.worker.conftest import (
    LEASE,
    PATIENCE,
    TAG,
    QueueUser,
    StartProcess,
    WorkerProcess,
    queue_user,
    until,
)
from tests.servers import DURABLE, Server, Servers
from worker.exit_codes import ExitCode

ENDLESS = 1_000_000


async def actions(worker: WorkerProcess) -> list[str]:
    lines = await asyncio.to_thread(worker.log.read_text)
    return [json.loads(line).get("action", "") for line in lines.splitlines() if line.startswith("{")]


async def said(worker: WorkerProcess, action: str) -> None:
    async def is_said() -> bool:
        return action in await actions(worker)

    await until(is_said)


async def test_a_killed_worker_s_job_runs_once_more_elsewhere_and_has_one_result(
    queue: QueueUser, start_process: StartProcess
) -> None:
    first = start_process("--step-seconds", "0.05")
    job = await queue.add(a_job(adapters=(), params=some_params(steps=400)))
    await queue.drawing(job)
    first.signal(signal.SIGKILL)
    start_process("--step-seconds", "0")

    record = await queue.ended(job)
    assert (record.status, record.attempts, record.crashes) == (JobStatus.SUCCEEDED, 2, 1)
    assert len(await queue.blobs()) == 1


async def test_a_worker_that_dies_with_its_image_stored_leaves_no_second_result(
    queue: QueueUser, start_process: StartProcess
) -> None:
    first = start_process("--dies", "before")
    job = await queue.add(a_job(adapters=()))
    assert await first.exit_code() == -signal.SIGKILL
    (orphan,) = await queue.blobs()
    start_process()

    record = await queue.ended(job)
    assert (record.status, record.attempts, record.crashes) == (JobStatus.SUCCEEDED, 2, 1)
    assert record.result is not None
    assert await queue.results.get(record.result.blob)
    assert not orphan.decode().endswith(record.result.blob)
    assert 0 < await queue.redis.ttl(orphan) <= QueueSettings().record_ttl


async def test_a_worker_that_dies_with_its_job_done_has_done_it(
    queue: QueueUser, start_process: StartProcess
) -> None:
    first = start_process("--dies", "after")
    job = await queue.add(a_job(adapters=()))
    assert await first.exit_code() == -signal.SIGKILL
    record = await queue.ended(job)
    start_process()
    await queue.ended(await queue.add(a_job(adapters=())))
    await queue.jobs.reap()

    assert (record.status, record.attempts, record.crashes) == (JobStatus.SUCCEEDED, 1, 0)
    assert await queue.record(job) == record


async def test_workers_whose_clocks_are_an_hour_wrong_work_like_others(
    queue: QueueUser, start_process: StartProcess
) -> None:
    wrong = [start_process("--step-seconds", "0.05", "--clock-ahead", ahead) for ahead in ("3600", "-3600")]

    async def both_are_live() -> bool:
        return sum(len(pool.workers) for pool in await queue.pools.live()) == 2

    await until(both_are_live)
    (begin, _) = await queue.redis.time()
    steps = int(2 * LEASE / 0.05)  # longer than a lease: each would reap the other's
    jobs = [await queue.add(a_job(adapters=(), params=some_params(steps=steps))) for _ in range(2)]
    records = [await queue.ended(job) for job in jobs]
    (end, _) = await queue.redis.time()
    for record in records:
        assert (record.status, record.attempts, record.crashes) == (JobStatus.SUCCEEDED, 1, 0)
        assert begin <= record.started_at <= record.finished_at <= end + 1

    job = await queue.add(a_job(adapters=(), params=some_params(steps=ENDLESS), timeout=3600.0))
    await queue.drawing(job)
    holder = await queue.redis.hget(BaseKeys(TAG).job(job), "worker")
    (doomed,) = [worker for worker in wrong if f"-{worker.process.pid}-" in holder.decode()]
    doomed.signal(signal.SIGKILL)

    async def runs_elsewhere() -> bool:
        return (await queue.record(job)).attempts == 2

    await until(runs_elsewhere)


async def test_a_job_that_kills_its_workers_fails_and_other_jobs_go_on(
    queue: QueueUser, start_process: StartProcess
) -> None:
    poison = await queue.add(a_job(adapters=(), params=some_params(prompt=null_engine.CRASH)))
    for _ in range(QueueSettings().max_crashes):
        assert await start_process().exit_code() == -signal.SIGKILL
    start_process()

    record = await queue.ended(poison)
    assert (record.status, record.crashes) == (JobStatus.FAILED, 2)
    after = await queue.ended(await queue.add(a_job(adapters=())))
    assert after.status is JobStatus.SUCCEEDED


async def test_jobs_that_were_held_beside_it_outlive_it(
    queue: QueueUser, start_process: StartProcess
) -> None:
    prompts = ["before", null_engine.CRASH_LATE, "after"]
    jobs = [await queue.add(a_job(adapters=(), params=some_params(prompt=prompt))) for prompt in prompts]
    for _ in range(QueueSettings().max_crashes):
        # long enough for the next job to be claimed before the last step ends
        assert await start_process("--step-seconds", "0.2").exit_code() == -signal.SIGKILL
    start_process()

    before, poison, after = [await queue.ended(job) for job in jobs]
    assert (poison.status, poison.crashes) == (JobStatus.FAILED, 2)
    assert before.status is JobStatus.SUCCEEDED
    assert (after.status, after.crashes) == (JobStatus.SUCCEEDED, 1)


async def test_what_a_frozen_worker_writes_too_late_changes_nothing(
    queue: QueueUser, start_process: StartProcess
) -> None:
    frozen = start_process("--step-seconds", "0.05")
    job = await queue.add(a_job(adapters=(), params=some_params(steps=400)))
    await queue.drawing(job)
    frozen.signal(signal.SIGSTOP)
    start_process("--step-seconds", "0")
    record = await queue.ended(job)
    frozen.signal(signal.SIGCONT)
    await said(frozen, "job_ended")

    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 2)
    assert await queue.record(job) == record
    assert len(await queue.blobs()) == 1


async def test_a_worker_told_to_stop_ends_its_job_first(
    queue: QueueUser, start_process: StartProcess
) -> None:
    worker = start_process("--step-seconds", "0.02")
    job = await queue.add(a_job(adapters=(), params=some_params(steps=60)))
    waiting = await queue.add(a_job(adapters=()))
    await queue.drawing(job)
    worker.signal(signal.SIGTERM)

    assert await worker.exit_code() == ExitCode.STOPPED
    assert (await queue.record(job)).status is JobStatus.SUCCEEDED
    assert (await queue.record(waiting)).status is JobStatus.QUEUED
    assert await queue.pools.live() == ()


async def test_a_job_that_does_not_end_in_time_is_given_back_and_its_attempt_not_charged(
    queue: QueueUser, start_process: StartProcess
) -> None:
    worker = start_process("--step-seconds", "0.02", variables={"WARMBASE_DRAIN": "0.2"})
    job = await queue.add(a_job(adapters=(), params=some_params(steps=ENDLESS)))
    await queue.drawing(job)
    worker.signal(signal.SIGTERM)

    assert await worker.exit_code() == ExitCode.STOPPED
    record = await queue.record(job)
    assert (record.status, record.attempts, record.crashes) == (JobStatus.QUEUED, 0, 0)


async def test_a_second_signal_gives_the_job_back_at_once(
    queue: QueueUser, start_process: StartProcess
) -> None:
    worker = start_process("--step-seconds", "0.02", variables={"WARMBASE_DRAIN": "3600"})
    job = await queue.add(a_job(adapters=(), params=some_params(steps=ENDLESS)))
    await queue.drawing(job)
    worker.signal(signal.SIGTERM)
    await said(worker, "stopping")
    worker.signal(signal.SIGINT)

    assert await worker.exit_code() == ExitCode.STOPPED
    record = await queue.record(job)
    assert (record.status, record.attempts) == (JobStatus.QUEUED, 0)


async def test_a_second_signal_does_not_wait_for_a_step_that_never_ends(
    queue: QueueUser, start_process: StartProcess
) -> None:
    worker = start_process(variables={"WARMBASE_DRAIN": "3600"})
    job = await queue.add(a_job(adapters=(), params=some_params(prompt=null_engine.HANG)))
    await said(worker, "job_claimed")
    worker.signal(signal.SIGTERM)
    await said(worker, "stopping")
    worker.signal(signal.SIGTERM)

    assert await worker.exit_code() == ExitCode.STOPPED
    assert (await queue.record(job)).status is JobStatus.QUEUED


async def test_a_worker_whose_generation_hangs_leaves_and_its_job_is_taken_back(
    queue: QueueUser, start_process: StartProcess
) -> None:
    worker = start_process(variables={"WARMBASE_STALL": "0.5"})
    job = await queue.add(a_job(adapters=(), params=some_params(prompt=null_engine.HANG)))

    assert await worker.exit_code() == ExitCode.STALLED

    async def is_taken_back() -> bool:
        await queue.jobs.reap()
        return (await queue.record(job)).status is JobStatus.QUEUED

    await until(is_taken_back)
    assert (await queue.record(job)).crashes == 1


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, that may be killed and run again with what it held."""
    (tmp_path / "server").mkdir()
    servers = Servers(tmp_path / "server")
    yield servers.start(*DURABLE)
    servers.kill_all()


@pytest.fixture
def config(config: WorkerConfig, request: pytest.FixtureRequest) -> WorkerConfig:
    """For tests that ask for a mortal server, the workers' address of it."""
    if "server" not in request.fixturenames:
        return config
    url = request.getfixturevalue("server").url
    return replace(config, common=replace(config.common, redis_url=url))


async def test_a_worker_carries_on_by_itself_after_redis_was_away(
    server: Server, start_process: StartProcess, settings: QueueSettings
) -> None:
    worker = start_process("--step-seconds", "0.02")
    async with command_client(server.url) as client:
        queue = queue_user(client, settings)
        await queue.ended(await queue.add(a_job(adapters=())))
        running = await queue.add(a_job(adapters=(), params=some_params(steps=50)))
        waiting = await queue.add(a_job(adapters=()))
        await queue.drawing(running)
        server.kill()
        await said(worker, "settle_waits")
        await asyncio.sleep(LEASE)  # longer than the lease: nobody can have renewed it
        server.run()

        records = [await queue.ended(job) for job in (running, waiting)]

    assert [record.status for record in records] == [JobStatus.SUCCEEDED, JobStatus.SUCCEEDED]
    assert worker.process.poll() is None


async def test_every_job_that_was_accepted_ends_although_redis_is_killed_again_and_again(
    server: Server, start_process: StartProcess, settings: QueueSettings
) -> None:
    for _ in range(2):
        start_process("--step-seconds", "0.01")
    accepted: list[JobId] = []
    async with command_client(server.url) as client:
        queue = queue_user(client, settings)

        async def add_one() -> None:
            job = a_job(adapters=(), params=some_params(steps=20))
            while job.id not in accepted:
                with contextlib.suppress(QueueUnavailable):  # as a router does: again, under the same id
                    accepted.append(await queue.add(job))
                await asyncio.sleep(0.02)

        async def add_many() -> None:
            for _ in range(60):
                await add_one()

        adding = asyncio.create_task(add_many())
        for _ in range(3):
            await asyncio.sleep(0.7)
            server.kill()
            await asyncio.sleep(0.3)
            server.run()
        await adding
        records = [await queue.ended(job) for job in accepted]
        assert {record.status for record in records} == {JobStatus.SUCCEEDED}
        assert len(accepted) == 60
        assert await queue.jobs.depth() == (0, 0)


async def test_a_worker_that_starts_before_redis_waits_for_it(
    server: Server, start_process: StartProcess, settings: QueueSettings
) -> None:
    server.kill()
    worker = start_process()
    await said(worker, "server_waits")
    server.run()

    async with command_client(server.url) as client:
        queue = queue_user(client, settings)
        assert (await queue.ended(await queue.add(a_job(adapters=())))).status is JobStatus.SUCCEEDED


async def test_a_worker_told_to_stop_without_redis_ends_all_the_same(
    server: Server, start_process: StartProcess
) -> None:
    server.kill()
    worker = start_process()
    await said(worker, "server_waits")
    worker.signal(signal.SIGTERM)

    assert await worker.exit_code() == ExitCode.STOPPED


def run_module(*arguments: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WARMBASE_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_help_names_the_variables_and_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['diffusers'] = None\n"
        "from worker.__main__ import main; main(['--help'])"
    )
    ended = run_module("-c", code, variables={})

    assert ended.returncode == 0, ended.stderr
    for name in ("WARMBASE_BASE", "REDIS_URL", "WARMBASE_STALL"):
        assert name in ended.stdout


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WARMBASE_DRAIN", "soon", "WARMBASE_DRAIN='soon'"),
        (
            "REDIS_URL",
            "redis://:hunter2@h?nonsense=1",
            "REDIS_URL: the option nonsense is not known: leave it out",
        ),
    ],
)
def test_a_variable_that_cannot_be_used_ends_the_process_and_is_named(
    name: str, value: str, said: str
) -> None:
    ended = run_module("-m", "worker", variables={"WARMBASE_BASE": "a/b", name: value})

    assert ended.returncode == ExitCode.BAD_CONFIG
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr


def test_a_worker_does_not_load_its_base_for_a_server_that_evicts(
    redis_url: str, start_process: StartProcess
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", "500mb")
        client.config_set("maxmemory-policy", "volatile-lru")
        try:
            worker = start_process()
            assert worker.process.wait(PATIENCE) == ExitCode.BAD_CONFIG
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "0")
    text = worker.log.read_text()
    assert "server_wrong" in text
    assert "set it to noeviction" in text
    assert "warming up" not in text
