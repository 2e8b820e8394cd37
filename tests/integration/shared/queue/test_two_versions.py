"""A rolling upgrade: scripts of two versions on one queue, and data of a version that is not there yet."""

import shutil
from collections import Counter
from itertools import count

import pytest

from shared.jobs import JobStatus, WorkerId
from shared.queue import scripts
from shared.queue.queue import JobQueue
from shared.queue.terms import LeaseState, QueueSettings
from shared.refs import base_tag
from tests.builders import BASE, a_job, a_result, an_error, some_progress


@pytest.fixture
def next_queue(redis, tmp_path, monkeypatch):
    """The queue as a release would bring it whose scripts are others, and whose layout is the same."""
    copy = tmp_path / "lua"
    shutil.copytree(scripts.LUA, copy)
    shared = copy / f"{scripts.SHARED_BY_ALL}.lua"
    shared.write_text(f"{shared.read_text()}\n-- of the next release\n")
    with monkeypatch.context() as patch:
        patch.setattr(scripts, "LUA", copy)
        return JobQueue(redis, base_tag(BASE), QueueSettings(lease=600.0))


async def test_half_old_and_half_new_lose_no_job_and_run_none_twice(queue, next_queue, keys, redis):
    sides, tokens = (queue, next_queue), count()
    jobs = [a_job() for _ in range(60)]
    for number, job in enumerate(jobs):
        await sides[number % 2].enqueue(job)
        await sides[(number + 1) % 2].enqueue(job)  # a repeat that the other version gets
    attempts = Counter()
    while True:
        number = next(tokens)
        worker, token = WorkerId(f"worker-{number}"), f"token-{number}"
        leases = (await sides[number % 2].claim(worker, token)).leases
        assert (await sides[(number + 1) % 2].claim(worker, token)).leases == leases
        if not leases:
            break
        (lease,) = leases
        attempts[lease.job.id] += 1
        other = sides[(number + 1) % 2]
        assert await other.heartbeat(worker, [some_progress(lease=lease)]) == {lease.job.id: LeaseState.HELD}
        match number % 4:
            case 0:
                await redis.zadd(keys.active, {lease.job.id: 1}, xx=True)
                assert await other.reap() == 1
                assert not await queue.complete(lease, a_result())
            case 1:
                assert await other.release(lease)
            case _:
                assert await other.complete(lease, a_result())
                assert await queue.complete(lease, a_result())

    assert set(attempts) == {job.id for job in jobs}
    ends = Counter(record.status for record in await queue.records([job.id for job in jobs]))
    assert set(ends) <= {JobStatus.SUCCEEDED, JobStatus.FAILED}
    assert await queue.depth() == (0, 0)


async def test_what_a_later_version_adds_to_a_record_is_left_alone(queue, claim, redis, keys, record_of):
    job = a_job()
    await queue.enqueue(job)
    await redis.hset(keys.job(job.id), "mood", "cheerful")
    lease = await claim()
    assert lease.job == job
    await queue.fail(lease, an_error(), retry=True)
    assert await queue.complete(await claim(), a_result())
    assert (await record_of(job.id)).status is JobStatus.SUCCEEDED
    assert await redis.hget(keys.job(job.id), "mood") == b"cheerful"


async def test_the_scripts_of_both_have_names_of_their_own(queue, next_queue):
    assert queue._enqueue._sha != next_queue._enqueue._sha
