"""Random histories of a small queue, each compared step by step with a model in plain Python.

The model is the queue as its docstrings have it: a few dictionaries, no leases in time. Time passes when
a rule says so. Every step may be repeated, as after a lost reply, and every attempt that ever was may try
to write again.
"""

import asyncio
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from shared.jobs import NEXT_STATUS, Job, JobStatus, WorkerId
from shared.queue.keys import BaseKeys
from shared.queue.queue import Enqueued, JobQueue, Lease, LeaseState, QueueSettings
from shared.redis_client import command_client
from shared.refs import base_tag
from tests.builders import BASE, a_job, a_result, an_error, some_progress

SETTINGS = QueueSettings(lease=600.0, max_waiting=4, max_attempts=3, max_crashes=2)
WORKERS = [WorkerId("worker-1"), WorkerId("worker-2"), WorkerId("worker-3")]


@dataclass
class Modelled:
    """One job in the model. `holder` is the attempt that runs it."""

    job: Job
    place: int
    status: JobStatus = JobStatus.QUEUED
    attempts: int = 0
    crashes: int = 0
    cancelled: bool = False
    late: bool = False
    holder: Lease | None = None
    ended_by: dict[str, int] = field(default_factory=dict)

    def become(self, status: JobStatus) -> None:
        assert status in NEXT_STATUS[self.status]
        self.status = status
        self.holder = None

    def stop_running(self, status: JobStatus) -> None:
        self.become(JobStatus.CANCELLED if self.cancelled else status)


class QueueMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")
    leases = Bundle("leases")
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = command_client(self.url)
        self.run(self.redis.flushall())
        self.keys = BaseKeys(base_tag(BASE))
        self.queue = JobQueue(self.redis, base_tag(BASE), SETTINGS)
        self.model: dict[str, Modelled] = {}
        self.numbers = count(1)

    def run(self, coroutine):
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()

    def waiting(self) -> list[Modelled]:
        queued = [known for known in self.model.values() if known.status is JobStatus.QUEUED]
        return sorted(queued, key=lambda known: known.place)

    @rule(target=jobs)
    def enqueue(self):
        job = a_job()
        if len(self.waiting()) >= SETTINGS.max_waiting:  # more, if jobs were given back
            assert self.run(self.queue.enqueue(job)) is Enqueued.FULL
            return multiple()
        assert self.run(self.queue.enqueue(job)) is Enqueued.ADDED
        self.model[job.id] = Modelled(job, place=next(self.numbers))
        return job

    @rule(job=jobs)
    def enqueue_again(self, job):
        assert self.run(self.queue.enqueue(job)) is Enqueued.KNOWN

    @rule(target=leases, worker=st.sampled_from(WORKERS), repeat=st.booleans())
    def claim(self, worker, repeat):
        expected = None
        for known in self.waiting():
            if not known.late:
                expected = known
                break
            known.become(JobStatus.FAILED)
        token = f"token-{next(self.numbers)}"
        lease = self.run(self.queue.claim(worker, token))
        if expected is None:
            assert lease is None
            return multiple()
        expected.become(JobStatus.RUNNING)
        expected.attempts += 1
        expected.holder = lease
        assert (lease.job, lease.worker, lease.attempt) == (expected.job, worker, expected.attempts)
        if repeat:
            assert self.run(self.queue.claim(worker, token)) == lease
        return lease

    def settle(self, act, lease, call, apply, repeat):
        """Have an attempt end in the queue and in the model, and compare the answers."""
        known = self.model[lease.job.id]
        held = known.holder == lease
        done_before = known.ended_by == {act: lease.fence}
        assert self.run(call()) is (held or done_before)
        if held:
            known.ended_by = {act: lease.fence}
            apply(known)
        if repeat and held:
            assert self.run(call()) is True

    @rule(lease=leases, repeat=st.booleans())
    def complete(self, lease, repeat):
        self.settle(
            "complete",
            lease,
            lambda: self.queue.complete(lease, a_result()),
            lambda known: known.stop_running(JobStatus.SUCCEEDED),
            repeat,
        )

    @rule(lease=leases, retry=st.booleans(), repeat=st.booleans())
    def fail(self, lease, retry, repeat):
        again = retry and self.model[lease.job.id].attempts < SETTINGS.max_attempts
        self.settle(
            "fail",
            lease,
            lambda: self.queue.fail(lease, an_error(), retry=retry),
            lambda known: known.stop_running(JobStatus.QUEUED if again else JobStatus.FAILED),
            repeat,
        )

    @rule(lease=leases, repeat=st.booleans())
    def release(self, lease, repeat):
        def apply(known):
            known.attempts -= 0 if known.cancelled else 1
            known.stop_running(JobStatus.QUEUED)

        self.settle("release", lease, lambda: self.queue.release(lease), apply, repeat)

    @rule(lease=leases)
    def heartbeat(self, lease):
        known = self.model[lease.job.id]
        expected = LeaseState.LOST
        if known.holder == lease:
            expected = LeaseState.CANCELLED if known.cancelled else LeaseState.HELD
        states = self.run(self.queue.heartbeat(lease.worker, [some_progress(lease=lease)]))
        assert states == {lease.job.id: expected}

    @rule(job=jobs, repeat=st.booleans())
    def cancel(self, job, repeat):
        known = self.model[job.id]
        if known.status is JobStatus.QUEUED:
            known.become(JobStatus.CANCELLED)
        elif known.status is JobStatus.RUNNING:
            known.cancelled = True
        for _ in range(2 if repeat else 1):
            assert self.run(self.queue.cancel(job.id)).status is known.status

    @rule(job=jobs)
    def time_passes_until_its_timeout(self, job):
        self.run(self.redis.hset(self.keys.job(job.id), "deadline", "1"))
        self.model[job.id].late = True

    @rule(lease=consumes(leases), reapers=st.integers(1, 3))
    def worker_dies_and_is_reaped(self, lease, reapers):
        known = self.model[lease.job.id]
        held = known.holder == lease
        if held:
            self.run(self.redis.zadd(self.keys.active, {lease.job.id: 1}, xx=True))
            known.crashes += 1
            lost = known.late or known.crashes >= SETTINGS.max_crashes
            known.stop_running(JobStatus.FAILED if lost else JobStatus.QUEUED)

        async def reap():
            return await asyncio.gather(*(self.queue.reap() for _ in range(reapers)))

        assert sum(self.run(reap())) == (1 if held else 0)

    @rule()
    def server_forgets_its_scripts(self):
        self.run(self.redis.script_flush())

    @invariant()
    def records_agree(self):
        records = self.run(self.queue.records(list(self.model)))
        assert [(record.status, record.attempts, record.crashes) for record in records] == [
            (known.status, known.attempts, known.crashes) for known in self.model.values()
        ]

    @invariant()
    def a_result_or_an_error_is_there_exactly_after_its_end(self):
        for record in self.run(self.queue.records(list(self.model))):
            assert (record.result is not None) == (record.status is JobStatus.SUCCEEDED)
            assert (record.error is not None) == (record.status is JobStatus.FAILED)
            assert (record.finished_at is not None) == record.status.is_end

    @invariant()
    def waiting_jobs_are_in_their_places(self):
        ids = [known.job.id for known in self.waiting()]
        assert [member.decode() for member in self.run(self.redis.zrange(self.keys.ready, 0, -1))] == ids
        assert {member.decode() for member in self.run(self.redis.zrange(self.keys.age, 0, -1))} == set(ids)

    @invariant()
    def running_jobs_have_a_lease(self):
        running = {known.job.id for known in self.model.values() if known.status is JobStatus.RUNNING}
        assert {member.decode() for member in self.run(self.redis.zrange(self.keys.active, 0, -1))} == running

    @invariant()
    def the_marker_lies_there_while_jobs_wait(self):
        assert self.run(self.redis.exists(self.keys.wake)) == (1 if self.waiting() else 0)


@pytest.mark.timeout(600)
def test_every_history_agrees_with_the_model(redis_url):
    machine = type("Machine", (QueueMachine,), {"url": redis_url})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
