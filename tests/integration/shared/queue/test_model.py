"""Random histories of a small queue, each compared step by step with a model in plain Python.

The model is the queue as its docstrings have it: a few dictionaries, no leases in time, and the rule itself
(`shared.queue.rule`) for the choice. Time passes when a step says so. A call may be repeated, as after a lost
reply, at once, much later or beside the first; every attempt that ever was may try to write again; and in
some of the histories the server dies now and then, also in the middle of a call.
"""

import asyncio
import hashlib
import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.errors import QueueUnavailable
from shared.jobs import NEXT_STATUS, Job, JobId, JobStatus, Priority, WorkerId
from shared.queue.keys import BaseKeys
from shared.queue.queue import PRIORITIES, JobQueue
from shared.queue.rule import TURN, Bounds, Head, choose, is_owed_a_turn
from shared.queue.terms import Admission, Enqueued, IdempotencyKey, Lease, LeaseState, Mode, QueueSettings
from shared.redis_client import command_client, one_round_trip
from shared.refs import base_tag
from tests.builders import (
    BASE,
    a_job,
    a_result,
    an_adapter,
    an_error,
    some_params,
    some_progress,
    some_timings,
)
from tests.servers import DURABLE, Server, Servers

SETTINGS = QueueSettings(
    lease=600.0,
    max_waiting=10,
    max_waiting_per_tenant=7,
    max_attempts=3,
    max_crashes=2,
    max_adapter_crashes=3,
    slack=3.0,
    max_overtakes=3,
    max_age=1000.0,
)
UNIT = 1000
FIRST_WORK = 30 * 512 * 512
SPAN = 2**50
WORKERS = [WorkerId("worker-1"), WorkerId("worker-2"), WorkerId("worker-3")]
ADAPTERS = [(), (an_adapter(),), (an_adapter(scale=0.5),), (an_adapter(weight_name="second.safetensors"),)]
AFFINITIES = sorted({a_job(adapters=adapters).affinity for adapters in ADAPTERS})
ROUTERS = ["router-1", "router-2"]
LATE = [None, None, None, 0, 1, 2]
"""How many claims ago a worker chose the token that comes now; None for a fresh one."""

KEYS = [None, *(IdempotencyKey(key=key, request=request) for key in "ab" for request in "12")]


class Repeat(StrEnum):
    """Whether a call comes twice."""

    NO = "no"
    AFTER = "after the first"
    BESIDE = "beside the first"


@dataclass(eq=False)
class Modelled:
    """One job in the model. `holder` is the attempt that runs it."""

    job: Job
    cost: int
    load: float
    place: int
    status: JobStatus = JobStatus.QUEUED
    attempts: int = 0
    crashes: int = 0
    cancelled: bool = False
    late: bool = False
    aged: bool = False
    delayed: bool = False
    due: bool = False
    dead: bool = False
    gone: bool = False
    unwanted: bool = False
    router: str = ""
    holder: Lease | None = None
    ended_by: dict[str, int] = field(default_factory=dict)

    @property
    def priority(self) -> int:
        return PRIORITIES.index(self.job.priority)

    @property
    def waits(self) -> bool:
        return self.status is JobStatus.QUEUED

    def become(self, status: JobStatus) -> None:
        assert status in NEXT_STATUS[self.status]
        self.status = status
        self.delayed = self.due = False
        self.holder = None

    def stop_running(self, status: JobStatus) -> None:
        self.become(JobStatus.CANCELLED if self.cancelled else status)


class QueueModel:
    """The queue without Redis."""

    def __init__(self) -> None:
        self.jobs: dict[str, Modelled] = {}
        self.mode = Mode.OPEN
        self.mean = self.pace = self.work = 0.0
        self.tags: dict[tuple[int, str], int] = {}
        self.virtual = [priority * SPAN for priority in range(len(PRIORITIES))]
        self.overtakers: list[int] = []
        self.deaths: dict[str, set[WorkerId]] = {affinity: set() for affinity in AFFINITIES}
        self.passed = 0
        self.keys: dict[str, tuple[Modelled, str]] = {}
        self.routers: set[str] = set()
        self.last: dict[WorkerId, tuple[str, list[Lease]]] = {}

    def waiting(self) -> list[Modelled]:
        return [known for known in self.jobs.values() if known.waits]

    def ready(self) -> list[Modelled]:
        ready = [known for known in self.waiting() if not known.delayed]
        return sorted(ready, key=lambda known: (known.place, known.job.id))

    def of_tenant(self, tenant: str) -> int:
        return sum(known.job.tenant == tenant for known in self.waiting())

    def forget_debts(self) -> None:
        if not self.waiting():
            self.tags.clear()
            self.overtakers.clear()

    def refuses(
        self, job: Job, key: IdempotencyKey | None, *, new: bool = True
    ) -> Enqueued | Modelled | None:
        if key and key.key in self.keys:
            known, request = self.keys[key.key]
            if not known.gone and known.status is not JobStatus.FAILED:
                return known if request == key.request else Enqueued.CONFLICT
        if new and self.mode is Mode.DRAINING:
            return Enqueued.CLOSED
        if len(self.deaths[job.affinity]) >= SETTINGS.max_adapter_crashes:
            return Enqueued.QUARANTINED
        self.end_late()
        if len(self.waiting()) >= SETTINGS.max_waiting:
            return Enqueued.FULL
        if self.of_tenant(job.tenant) >= SETTINGS.max_waiting_per_tenant:
            return Enqueued.TENANT_FULL
        return None

    @property
    def average_load(self) -> float:
        return (self.work or FIRST_WORK) / UNIT

    @property
    def bounds(self) -> Bounds:
        return Bounds(
            slack=SETTINGS.slack * self.average_load,
            max_overtakes=SETTINGS.max_overtakes,
            max_age=SETTINGS.max_age,
        )

    def place(self, job: Job, load: float) -> int:
        priority = PRIORITIES.index(job.priority)
        before = self.tags.get((priority, job.tenant), 0)
        place = max(self.virtual[priority], before) + charge(job, load)
        self.tags[priority, job.tenant] = place
        return place

    def withdraw(self, known: Modelled, status: JobStatus) -> None:
        """End a job that waits; its tenant gets back what it was charged and has not paid."""
        tenant, virtual = (known.priority, known.job.tenant), self.virtual[known.priority]
        if not known.attempts and known.place > virtual and tenant in self.tags:
            self.tags[tenant] -= charge(known.job, known.load)
            if self.tags[tenant] <= virtual:
                del self.tags[tenant]
        known.become(status)

    def add(self, job: Job, router: str) -> Modelled:
        seconds = job.work * self.pace if job.work and self.pace else self.mean or 1.0
        cost = max(1, math.ceil(seconds * 1_000_000))
        load = job.work / UNIT if job.work else self.average_load
        place = self.place(job, load)
        self.jobs[job.id] = Modelled(job, cost=cost, load=load, place=place, router=router)
        self.routers |= {router}
        return self.jobs[job.id]

    def add_again(self, known: Modelled, router: str) -> Enqueued:
        """A job whose id is known comes again."""
        if not known.unwanted:
            return Enqueued.KNOWN
        if known.late:
            known.status, known.unwanted = JobStatus.FAILED, False
            return Enqueued.KNOWN
        if refusal := self.refuses(known.job, None, new=False):
            assert isinstance(refusal, Enqueued)
            return refusal
        known.status, known.unwanted, known.router = JobStatus.QUEUED, False, router
        self.routers |= {router}
        return Enqueued.ADDED

    def end_late(self) -> None:
        for known in self.waiting():
            if known.late:
                self.withdraw(known, JobStatus.FAILED)
        self.forget_debts()

    def claimed_before(self, worker: WorkerId, token: str) -> list[Modelled]:
        last_token, leases = self.last.get(worker, ("", []))
        given = [(self.jobs[lease.job.id], lease) for lease in leases if token == last_token]
        return [known for known, lease in given if known.holder == lease]

    def claim(self, hot: list[str], most: int) -> list[Modelled]:
        self.end_late()
        for known in self.waiting():
            if known.due:
                known.delayed = known.due = False
        taken: list[Modelled] = []
        while len(taken) < most and self.mode is not Mode.PAUSED and self.ready():
            chosen, head = self.choose(hot)
            if chosen.router and chosen.router not in self.routers:
                chosen.become(JobStatus.CANCELLED)
                chosen.unwanted = True
            elif len(self.deaths[chosen.job.affinity]) >= SETTINGS.max_adapter_crashes:
                self.withdraw(chosen, JobStatus.FAILED)
            else:
                self.advance(head)
                if chosen.place > head.place:
                    self.overtakers.append(chosen.place)
                chosen.become(JobStatus.RUNNING)
                chosen.attempts += 1
                taken.append(chosen)
            self.forget_debts()
        return taken

    def choose(self, hot: list[str]) -> tuple[Modelled, Modelled]:
        ready = self.ready()
        firsts = [
            next((known for known in ready if known.priority == priority), None)
            for priority in range(len(PRIORITIES))
        ]
        heads = [None if first is None else self.head(first, hot) for first in firsts]
        choice = choose(heads, self.passed, self.bounds)
        assert choice is not None
        lower = [head for head in heads if head][1:]
        if any(is_owed_a_turn(head, self.bounds) for head in lower):
            self.passed = 0 if self.passed >= TURN - 1 else self.passed + 1
        head = firsts[choice.priority]
        assert head is not None
        start = head.priority * SPAN
        self.overtakers = [place for place in self.overtakers if not start <= place < head.place]
        if choice.hot is None:
            return head, head
        wanted = (head.priority, hot[choice.hot])
        return next(known for known in ready if (known.priority, known.job.affinity) == wanted), head

    def head(self, first: Modelled, hot: list[str]) -> Head:
        places = [
            next(
                (
                    known.place
                    for known in self.ready()
                    if known.priority == first.priority and known.job.affinity == affinity
                ),
                None,
            )
            for affinity in hot
        ]
        end = (first.priority + 1) * SPAN
        return Head(
            score=first.place,
            waited=math.inf if first.aged else 0.0,
            overtaken=sum(first.place < place < end for place in self.overtakers),
            hot=places,
        )

    def advance(self, head: Modelled) -> None:
        virtual = self.virtual[head.priority] = max(self.virtual[head.priority], head.place)
        self.tags = {
            (priority, tenant): tag
            for (priority, tenant), tag in self.tags.items()
            if priority != head.priority or tag > virtual
        }

    def put_back(self, known: Modelled, *, delayed: bool) -> None:
        known.stop_running(JobStatus.QUEUED)
        known.delayed = delayed and known.waits

    def learn(self, seconds: float, work: int) -> None:
        self.mean = self.mean + 0.1 * (seconds - self.mean) if self.mean else seconds
        self.work = self.work + 0.1 * (work - self.work) if self.work else work
        pace = seconds / work
        self.pace = self.pace + 0.1 * (pace - self.pace) if self.pace else pace


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
        self.model = QueueModel()
        self.numbers = count(1)
        self.tokens: dict[WorkerId, list[str]] = {worker: [] for worker in WORKERS}
        self.is_repeated = False

    def run(self, coroutine):
        return self.runner.run(coroutine)

    def ask(self, method, *arguments, **named):
        """Make a call that may be repeated, and return its answer."""
        return self.run(method(*arguments, **named))

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()

    def enqueued(self, job: Job, key: IdempotencyKey | None = None, router: str = "") -> Admission:
        return self.ask(self.queue.enqueue, job, key, router)

    @rule(
        target=jobs,
        adapters=st.sampled_from(ADAPTERS),
        tenant=st.sampled_from(["", "t1", "t2"]),
        priority=st.sampled_from([Priority.NORMAL, Priority.NORMAL, Priority.HIGH, Priority.LOW]),
        weight=st.sampled_from([1.0, 1.0, 3.0]),
        steps=st.sampled_from([None, 4, 40]),
        key=st.sampled_from([None, None, None, *KEYS]),
        router=st.sampled_from(["", *ROUTERS]),
        repeat=st.booleans(),
    )
    def enqueue(self, adapters, tenant, priority, weight, steps, key, router, repeat):
        params = some_params(steps=steps, width=64, height=64)
        # of equal places the id decides: a history that is replayed has to have the same ones, in no order
        number = hashlib.sha256(b"%d" % next(self.numbers)).hexdigest()[:32]
        job = a_job(
            id=JobId(f"{base_tag(BASE)}-{number}"),
            adapters=adapters,
            tenant=tenant,
            priority=priority,
            weight=weight,
            params=params,
        )
        refusal = self.model.refuses(job, key)
        admission = self.enqueued(job, key, router)
        if isinstance(refusal, Modelled):
            assert (admission.outcome, admission.job) == (Enqueued.KNOWN, refusal.job.id)
            return multiple()
        if refusal is not None:
            assert admission.outcome is refusal
            return multiple()
        outcomes = {Enqueued.ADDED, Enqueued.KNOWN} if self.is_repeated else {Enqueued.ADDED}
        assert admission.outcome in outcomes
        assert admission.job == job.id
        known = self.model.add(job, router)
        if key:
            self.model.keys[key.key] = known, key.request
        if repeat:
            assert self.enqueued(job, key, router).outcome is Enqueued.KNOWN
        return job

    @rule(job=jobs, key=st.sampled_from(KEYS), router=st.sampled_from(["", *ROUTERS]))
    def enqueue_again(self, job, key, router):
        known = self.model.jobs[job.id]
        if not known.gone:
            expected = self.model.add_again(known, router)
            outcome = self.enqueued(job, key, router).outcome
            assert outcome is expected or (self.is_repeated and outcome is Enqueued.KNOWN)

    @precondition(lambda self: self.unwanted)
    @rule(
        job=st.runner().flatmap(lambda self: st.sampled_from(self.unwanted)),
        key=st.sampled_from(KEYS),
        router=st.sampled_from(["", *ROUTERS]),
        meanwhile=st.sampled_from(["", "", "", "its time passes", "its client leaves"]),
    )
    def a_router_wakes(self, job, key, router, meanwhile):
        match meanwhile:
            case "its time passes":
                self.time_passes_until_its_timeout(job)
            case "its client leaves":
                self.cancel(job, repeat=False)
        self.enqueue_again(job, key, router)

    @property
    def unwanted(self) -> list[Job]:
        return [known.job for known in self.model.jobs.values() if known.unwanted]

    @rule(
        target=leases,
        worker=st.sampled_from(WORKERS),
        hot=st.lists(st.sampled_from(AFFINITIES), unique=True),
        most=st.sampled_from([1, 1, 1, 3]),
        late=st.sampled_from(LATE),
        repeat=st.booleans(),
    )
    def claim(self, worker, hot, most, late, repeat):
        token = self.token(worker, late)
        before = self.model.claimed_before(worker, token)
        expected = before or self.model.claim(hot, most)
        claim = self.ask(self.queue.claim, worker, token, hot=hot, count=most)
        assert [(lease.job, lease.worker, lease.attempt) for lease in claim.leases] == [
            (known.job, worker, known.attempts) for known in expected
        ]
        for known, lease in zip(expected, claim.leases, strict=True):
            known.holder = lease
        if claim.leases and not before:
            self.model.last[worker] = token, list(claim.leases)
        assert claim.hints == tuple(known.job for known in self.model.ready()[:4])
        assert (claim.next_due is not None) == any(known.delayed for known in self.model.waiting())
        if repeat and expected:
            assert self.run(self.queue.claim(worker, token)).leases == claim.leases
        return multiple(*claim.leases)

    def token(self, worker, late):
        """Return a fresh token, or one of an earlier claim, whose second copy comes now."""
        tokens = self.tokens[worker]
        if late is not None and late < len(tokens):
            return tokens[-1 - late]
        tokens.append(f"token-{next(self.numbers)}")
        return tokens[-1]

    def settle(self, act, lease, call, apply, repeat):
        """Have an attempt end in the queue and in the model, and compare the answers."""
        known = self.model.jobs[lease.job.id]
        held = known.holder == lease
        done_before = known.ended_by == {act: lease.fence} and not known.gone

        async def call_and_perhaps_again():
            answers = await asyncio.gather(*(call() for _ in range(2 if repeat is Repeat.BESIDE else 1)))
            return answers + [await call() for _ in range(1 if repeat is Repeat.AFTER else 0)]

        assert set(self.ask(call_and_perhaps_again)) == {held or done_before}
        if held:
            known.ended_by = {act: lease.fence}
            apply(known)

    @rule(lease=leases, seconds=st.sampled_from([0.5, 2.0]), repeat=st.sampled_from(Repeat))
    def complete(self, lease, seconds, repeat):
        result = replace(a_result(), timings=some_timings(swap=0.0, inference=seconds))

        def apply(known):
            if not known.cancelled:
                self.model.learn(seconds, result.steps * result.width * result.height)
                self.model.deaths[lease.job.affinity].clear()
            known.stop_running(JobStatus.SUCCEEDED)

        self.settle("complete", lease, lambda: self.queue.complete(lease, result), apply, repeat)

    @rule(
        lease=leases, retry=st.booleans(), delay=st.sampled_from([0.0, 600.0]), repeat=st.sampled_from(Repeat)
    )
    def fail(self, lease, retry, delay, repeat):
        def apply(known):
            if retry and known.attempts < SETTINGS.max_attempts:
                self.model.put_back(known, delayed=delay > 0)
            else:
                known.dead = retry and not known.cancelled
                known.stop_running(JobStatus.FAILED)

        def call():
            return self.queue.fail(lease, an_error(), retry=retry, delay=delay)

        self.settle("fail", lease, call, apply, repeat)

    @rule(lease=leases, repeat=st.sampled_from(Repeat))
    def release(self, lease, repeat):
        def apply(known):
            known.attempts -= 0 if known.cancelled else 1
            self.model.put_back(known, delayed=False)

        self.settle("release", lease, lambda: self.queue.release(lease), apply, repeat)

    @rule(lease=leases)
    def heartbeat(self, lease):
        known = self.model.jobs[lease.job.id]
        expected = LeaseState.LOST
        if known.holder == lease:
            expected = LeaseState.CANCELLED if known.cancelled else LeaseState.HELD
        states = self.ask(self.queue.heartbeat, lease.worker, [some_progress(lease=lease)])
        assert states == {lease.job.id: expected}

    @rule(job=jobs, repeat=st.booleans())
    def cancel(self, job, repeat):
        known = self.model.jobs[job.id]
        if known.gone:
            assert self.ask(self.queue.cancel, job.id) is None
            return
        if known.waits:
            self.model.withdraw(known, JobStatus.CANCELLED)
            self.model.forget_debts()
        elif known.status is JobStatus.RUNNING:
            known.cancelled = True
        known.unwanted = False
        for _ in range(2 if repeat else 1):
            assert self.ask(self.queue.cancel, job.id).status is known.status

    @rule(job=jobs)
    def time_passes_until_its_timeout(self, job):
        known = self.model.jobs[job.id]
        if (not known.status.is_end or known.unwanted) and not known.gone:
            self.run(self.redis.hset(self.keys.job(job.id), "deadline", "1"))
            self.run(self.redis.zadd(self.keys.deadlines, {job.id: 1}, xx=True))
            known.late = True

    @rule(job=jobs)
    def it_waits_for_long(self, job):
        known = self.model.jobs[job.id]
        if not known.status.is_end and not known.gone:
            self.run(self.redis.hset(self.keys.job(job.id), "enqueued_at", "1"))
            known.aged = True

    @rule(job=jobs)
    def its_delay_passes(self, job):
        known = self.model.jobs[job.id]
        if known.delayed:
            self.run(self.redis.zadd(self.keys.delayed, {job.id: 1}, xx=True))
            known.due = True

    @rule(lease=consumes(leases), reapers=st.integers(1, 3))
    def worker_dies_and_is_reaped(self, lease, reapers):
        known = self.model.jobs[lease.job.id]
        held = known.holder == lease
        if held:
            self.run(self.redis.zadd(self.keys.active, {lease.job.id: 1}, xx=True))
            known.crashes += 1
            if lease.job.adapters:
                self.model.deaths[lease.job.affinity].add(lease.worker)
            crashed_too_often = known.crashes >= SETTINGS.max_crashes
            known.dead = crashed_too_often and not known.late and not known.cancelled
            lost = known.late or crashed_too_often
            known.stop_running(JobStatus.FAILED if lost else JobStatus.QUEUED)

        late = sum(known.late for known in self.model.waiting())
        self.model.end_late()

        async def reap():
            return await asyncio.gather(*(self.queue.reap() for _ in range(reapers)))

        assert sum(self.run(reap())) == held + late

    @rule(job=jobs)
    def operator_revives(self, job):
        known = self.model.jobs[job.id]
        assert self.run(self.queue.revive(job.id)) is known.dead
        if known.dead:
            known.place = self.model.place(known.job, known.load)
            known.status = JobStatus.QUEUED
            known.dead = known.late = known.aged = False
            known.router = ""
            known.attempts = known.crashes = 0
            self.model.deaths[job.affinity].clear()
            assert not self.run(self.queue.revive(job.id))

    @rule(job=jobs)
    def operator_drops(self, job):
        known = self.model.jobs[job.id]
        assert self.run(self.queue.drop(job.id)) is known.dead
        if known.dead:
            known.gone, known.dead = True, False
            assert not self.run(self.queue.drop(job.id))

    @rule(mode=st.sampled_from([Mode.OPEN, *Mode]))
    def operator_changes_the_mode(self, mode):
        self.run(self.queue.set_mode(mode))
        self.model.mode = mode
        assert self.run(self.queue.overview()).mode is mode

    @rule(router=st.sampled_from(ROUTERS))
    def a_router_dies(self, router):
        self.run(self.redis.zadd(self.keys.routers, {router: 1}))
        self.model.routers -= {router}

    @rule(router=st.sampled_from(ROUTERS))
    def a_router_attends(self, router):
        self.run(self.queue.attend(router))
        self.model.routers |= {router}

    @rule()
    def server_forgets_its_scripts(self):
        self.run(self.redis.script_flush())

    @invariant()
    def records_agree(self):
        known_jobs = list(self.model.jobs.values())
        records = self.run(self.queue.records(list(self.model.jobs)))
        for known, record in zip(known_jobs, records, strict=True):
            assert (record is None) == known.gone
            if record is None:
                continue
            assert (record.status, record.attempts, record.crashes) == (
                known.status,
                known.attempts,
                known.crashes,
            )
            assert (record.result is not None) == (record.status is JobStatus.SUCCEEDED)
            assert (record.error is not None) == (record.status is JobStatus.FAILED)
            assert (record.finished_at is not None) == record.status.is_end
            assert record.unwanted is known.unwanted

    @invariant()
    def every_set_holds_the_jobs_that_belong_there(self):
        model, keys, pipeline = self.model, self.keys, one_round_trip(self.redis)
        pipeline.zrange(keys.ready, 0, -1, withscores=True)
        for key in (keys.age, keys.deadlines, keys.delayed, keys.active, keys.dead):
            pipeline.zrange(key, 0, -1)
        pipeline.exists(keys.wake).hgetall(keys.tenants).hget(keys.meta, "backlog")
        for affinity in AFFINITIES:
            pipeline.zrange(keys.adapter(affinity), 0, -1, withscores=True)
        ready, age, deadlines, delayed, active, dead, wake, tenants, backlog, *adapters = self.run(
            pipeline.execute()
        )
        places = [(known.job.id, float(known.place)) for known in model.ready()]
        assert scored(ready) == places
        assert ids(age) == {job for job, _ in places}
        assert ids(deadlines) == {known.job.id for known in model.waiting()}
        assert ids(delayed) == {known.job.id for known in model.waiting() if known.delayed}
        running = {known.job.id for known in model.jobs.values() if known.status is JobStatus.RUNNING}
        assert ids(active) == running
        assert ids(dead) == {known.job.id for known in model.jobs.values() if known.dead}
        assert wake == (1 if places and model.mode is not Mode.PAUSED else 0)
        assert {tenant.decode(): int(number) for tenant, number in tenants.items()} == {
            known.job.tenant: model.of_tenant(known.job.tenant) for known in model.waiting()
        }
        assert int(backlog or 0) == sum(known.cost for known in model.waiting())
        for affinity, found in zip(AFFINITIES, adapters, strict=True):
            own = [known for known in model.ready() if known.job.affinity == affinity]
            assert scored(found) == [(known.job.id, float(known.place)) for known in own]


class MortalMachine(QueueMachine):
    """Its server dies now and then, and comes back with what it had written."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.dies_after: float | None = None

    @rule()
    def the_server_dies(self):
        self.server.kill()
        self.server.run()

    @rule(seconds=st.sampled_from([0.0, 0.0005, 0.001, 0.002]))
    def it_dies_in_the_middle_of_the_next_call(self, seconds):
        self.dies_after = seconds

    def ask(self, method, *arguments, **named):
        seconds, self.dies_after = self.dies_after, None
        self.is_repeated = seconds is not None
        if seconds is not None:
            self.run(self.cut_short(method(*arguments, **named), seconds))
        return super().ask(method, *arguments, **named)

    async def cut_short(self, call, seconds):
        calling = asyncio.create_task(call)
        await asyncio.sleep(seconds)
        self.server.kill()
        self.server.run()
        with suppress(QueueUnavailable):  # or it was sent once more, and answered
            await calling


def charge(job: Job, load: float) -> int:
    return max(1, math.ceil(load / job.weight))


def ids(members) -> set[str]:
    return {member.decode() for member in members}


def scored(members) -> list[tuple[str, float]]:
    return [(member.decode(), score) for member, score in members]


@pytest.fixture
def servers(tmp_path):
    """Makes servers, of Valkey unless another program is named."""
    made: list[Servers] = []

    def make(binary=None):
        made.append(Servers(tmp_path, binary))
        return made[-1]

    yield make
    for each in made:
        each.kill_all()


as_long_as_is_asked_for = pytest.mark.timeout(0)


@as_long_as_is_asked_for
def test_every_history_agrees_with_the_model(redis_url, model_examples):
    compare(QueueMachine, model_examples * 55 // 100, url=redis_url)


@as_long_as_is_asked_for
def test_it_does_on_redis(servers, redis_binary, model_examples):
    compare(QueueMachine, model_examples * 30 // 100, url=servers(redis_binary).start('save ""').url)


@as_long_as_is_asked_for
def test_it_does_on_a_cluster(servers, model_examples):
    url = f"redis+cluster://127.0.0.1:{servers().start_cluster().port}"
    compare(QueueMachine, model_examples * 10 // 100, url=url)


@as_long_as_is_asked_for
@pytest.mark.parametrize("engine", ["valkey", "redis"])
def test_it_does_while_the_server_dies_again_and_again(request, servers, engine, model_examples):
    binary = request.getfixturevalue("redis_binary") if engine == "redis" else None
    server = servers(binary).start(*DURABLE)
    compare(MortalMachine, model_examples * 25 // 1000, url=server.url, server=server)


def compare(machine: type[QueueMachine], examples: int, **attributes) -> None:
    """Run this many histories on a machine with these attributes."""
    run_state_machine_as_test(
        type("Machine", (machine,), attributes),
        settings=settings(
            max_examples=examples,
            stateful_step_count=100,
            deadline=None,
            phases=(Phase.explicit, Phase.generate),
        ),
    )
