import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from router.waiting import JobWaiter
from shared.errors import JobExpired, NoPoolForBase, QueueFull, QueueUnavailable
from shared.jobs import JobStatus, job_base_tag
from shared.queue.terms import Admission, Enqueued, IdempotencyKey
from shared.refs import RepoId, base_tag
from tests.builders import a_job, a_record


class Server:
    """Queues and channel of a server in this process."""

    def __init__(self):
        self.records_by_id = {}
        self.enqueued, self.cancelled, self.heard = [], [], asyncio.Queue()
        self.keys, self.attending = {}, []
        self.full = self.down = False
        self.refusal = None
        self.refused = 0
        self.lost_reply = None
        self.uncancellable = None
        self.now = 0.0

    def of_tag(self, _tag):
        return self

    of_job = of_tag

    async def admit(self, job, _workers, idempotency=None, router=""):
        if self.full:
            raise QueueFull("full", 3.0)
        admission = await self.enqueue(job, idempotency, router)
        if self.lost_reply:
            raise self.lost_reply
        return admission.job

    async def enqueue(self, job, idempotency, router):
        self._answer()
        assert bool(router) is (idempotency is None)
        known = self.keys.get(idempotency, job.id)
        self.enqueued.append(known)
        if self.refusal:
            return Admission(outcome=self.refusal, job=job.id, seconds=0.0)
        earlier = self.records_by_id.get(known)
        if earlier and not earlier.unwanted:
            return Admission(outcome=Enqueued.KNOWN, job=known, seconds=0.0)
        if idempotency:
            self.keys[idempotency] = job.id
        self.records_by_id[job.id] = a_record(id=job.id)
        return Admission(outcome=Enqueued.ADDED, job=job.id, seconds=0.0)

    async def attend(self, router):
        self._answer()
        self.attending.append(router)

    async def records(self, jobs):
        self._answer()
        return [self.records_by_id.get(job) for job in jobs]

    async def cancel(self, job):
        self._answer()
        if job == self.uncancellable:
            raise RuntimeError("the script failed")
        self.cancelled.append(job)

    def end(self, job, *, say=True):
        self.records_by_id[job.id] = a_record(id=job.id, status=JobStatus.CANCELLED)
        if say:
            self.heard.put_nowait({"data": job.id.encode()})

    def seem_unwanted(self, job):
        unwanted = a_record(id=job.id, status=JobStatus.CANCELLED, unwanted=True)
        self.records_by_id[job.id] = unwanted

    async def has_refused(self):
        """Return once records were asked for in vain, and what follows from it has been done."""
        before = self.refused
        while self.refused < before + 2:  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)

    def _answer(self):
        if self.down:
            self.refused += 1
            raise QueueUnavailable("down")

    @asynccontextmanager
    async def pubsub(self, *, ignore_subscribe_messages):
        assert ignore_subscribe_messages
        yield self

    async def psubscribe(self, pattern):
        assert pattern.endswith(":done")

    async def get_message(self, **_options):
        message = await self.heard.get()
        if isinstance(message, Exception):
            raise message
        return message


@pytest.fixture
async def server():
    return Server()


@asynccontextmanager
async def waiting_for(server, job, sweep_every=3600.0):
    """A waiter whose sweeps the test orders by its length, and the wait for `job` once it is admitted."""
    async with JobWaiter(server, server, sweep_every=sweep_every, clock=lambda: server.now) as waiter:
        wait = asyncio.create_task(waiter.run(job, 1))
        async with asyncio.timeout(10):
            while not (server.enqueued or wait.done()):  # noqa: ASYNC110 - a state, not an event
                await asyncio.sleep(0)
        yield wait
        wait.cancel()
        await asyncio.gather(wait, return_exceptions=True)


async def test_a_hint_leads_to_the_record(server):
    job = a_job()
    async with waiting_for(server, job) as wait:
        server.end(job)
        assert (await wait).status is JobStatus.CANCELLED
    assert server.cancelled == []


async def test_without_a_hint_the_sweep_finds_the_end(server):
    job = a_job()
    async with waiting_for(server, job, sweep_every=0.0) as wait:
        server.end(job, say=False)
        assert (await wait).status is JobStatus.CANCELLED


async def test_an_end_that_was_published_while_nobody_listened_is_found_once_somebody_does_again(server):
    job = a_job()
    async with waiting_for(server, job) as wait, asyncio.timeout(10):
        server.end(job, say=False)
        server.heard.put_nowait(QueueUnavailable("the connection was closed"))
        assert (await wait).status is JobStatus.CANCELLED


async def test_a_hint_that_is_not_true_ends_nothing(server):
    job = a_job()
    async with waiting_for(server, job) as wait:
        server.heard.put_nowait({"data": job.id.encode()})
        server.heard.put_nowait({"data": b"\xff of another layout"})
        await asyncio.sleep(0.05)
        assert not wait.done()


async def test_a_forgotten_job_is_enqueued_again_under_its_id(server):
    job = a_job()
    async with waiting_for(server, job, sweep_every=0.0) as wait:
        del server.records_by_id[job.id]
        async with asyncio.timeout(10):
            while server.enqueued != [job.id, job.id]:  # noqa: ASYNC110 - a state, not an event
                await asyncio.sleep(0)
        server.end(job)
        await wait


async def test_a_job_that_was_cancelled_as_unwanted_is_enqueued_again_under_its_id(server):
    job = a_job()
    async with waiting_for(server, job) as wait:
        server.seem_unwanted(job)
        server.heard.put_nowait({"data": job.id.encode()})
        async with asyncio.timeout(10):
            while server.enqueued != [job.id, job.id]:  # noqa: ASYNC110 - a state, not an event
                await asyncio.sleep(0)
        assert not wait.done()
        server.end(job)
        assert not (await wait).unwanted


async def test_while_the_queue_is_full_it_is_tried_again_with_every_sweep(server):
    job = a_job()
    async with waiting_for(server, job, sweep_every=0.0) as wait:
        server.refusal = Enqueued.FULL
        server.seem_unwanted(job)
        async with asyncio.timeout(10):
            while len(server.enqueued) < 4:  # noqa: ASYNC110 - a state, not an event
                await asyncio.sleep(0)
        assert not wait.done()
        server.refusal = None
        async with asyncio.timeout(10):
            while server.records_by_id[job.id].unwanted:  # noqa: ASYNC110 - a state, not an event
                await asyncio.sleep(0)
        server.end(job)
        await wait


async def test_what_no_wait_mends_is_told_at_once(server):
    job = a_job()
    async with waiting_for(server, job, sweep_every=0.0) as wait:
        server.refusal = Enqueued.CLOSED
        server.seem_unwanted(job)
        with pytest.raises(NoPoolForBase, match="drained"):
            await wait


async def test_an_outage_is_survived_for_a_while_then_told_and_the_job_cancelled_later(server):
    job = a_job()
    async with waiting_for(server, job, sweep_every=0.0) as wait:
        server.down = True
        await server.has_refused()
        server.now = 9.9
        await server.has_refused()
        assert not wait.done()
        server.now = 10.1
        with pytest.raises(QueueUnavailable):
            await wait
        server.down = False
        async with asyncio.timeout(10):
            while server.cancelled != [job.id]:  # noqa: ASYNC110 - a state, not an event
                await asyncio.sleep(0)


async def test_an_outage_that_was_over_long_ago_does_not_count_when_a_call_fails_again(server):
    job = a_job()
    async with waiting_for(server, job, sweep_every=0.0) as wait:
        server.down = True
        await server.has_refused()
        server.down = False
        before = len(server.attending)
        while len(server.attending) < before + 2:  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)
        server.now, server.down = 3600.0, True
        await server.has_refused()
        server.down = False
        server.end(job)
        await wait


async def test_an_enqueue_that_is_answered_shows_that_the_queue_is_there(server):
    async def records(_jobs):
        server.refused += 1
        raise QueueUnavailable("no answer")

    server.records = records
    jobs = [a_job(), a_job()]
    async with (
        JobWaiter(server, server, sweep_every=0.0, clock=lambda: server.now) as waiter,
        asyncio.timeout(10),
    ):
        waits = []
        for server.now, job in zip((0.0, 9.0), jobs, strict=True):
            waits.append(asyncio.create_task(waiter.run(job, 1)))
            await server.has_refused()
        assert server.enqueued == [job.id for job in jobs]
        server.now = 18.0
        await server.has_refused()  # had they been told, nobody would ask any more
        server.now = 20.0
        for wait in waits:
            with pytest.raises(QueueUnavailable):
                await wait


async def test_who_is_not_admitted_yet_is_not_told_that_records_cannot_be_read(server):
    job, admitted, admit = a_job(), asyncio.Event(), server.admit

    async def admit_late(*args, **options):
        await admitted.wait()
        return await admit(*args, **options)

    server.admit = admit_late
    async with JobWaiter(server, server, sweep_every=0.0, clock=lambda: server.now) as waiter:
        wait = asyncio.create_task(waiter.run(job, 1))
        server.down = True
        for server.now in (0.0, 3600.0):
            await server.has_refused()
        server.down = False
        admitted.set()
        while not server.enqueued:  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)
        server.end(job)
        assert (await wait).id == job.id


async def test_a_call_that_a_standstill_of_the_router_cut_short_is_no_outage(server):
    job = a_job()
    async with waiting_for(server, job, sweep_every=0.0) as wait:
        server.now, server.down = 3600.0, True
        await server.has_refused()
        server.down = False
        server.end(job)
        await wait


async def test_who_leaves_has_the_job_cancelled(server):
    job = a_job()
    async with waiting_for(server, job) as wait:
        wait.cancel()
        async with asyncio.timeout(10):
            while server.cancelled != [job.id]:  # noqa: ASYNC110 - a state, not an event
                await asyncio.sleep(0)


async def test_a_job_that_could_not_be_cancelled_in_its_time_is_left_alone(server):
    server.down = True
    async with JobWaiter(server, server, sweep_every=0.0, clock=lambda: server.now) as waiter:
        waiter.abandon(a_job(timeout=60.0))
        await server.has_refused()
        server.now, server.down = 60.0, False
    assert server.cancelled == []


async def test_time_that_is_over_ends_the_wait_and_the_job(server):
    job = a_job(timeout=0.05)
    async with waiting_for(server, job) as wait:
        with pytest.raises(JobExpired):
            await wait
    assert server.cancelled == [job.id]


async def test_a_full_queue_is_told_at_once_and_nothing_is_cancelled(server):
    server.full = True
    async with waiting_for(server, a_job()) as wait:
        with pytest.raises(QueueFull):
            await wait
    assert server.cancelled == []


async def test_the_end_of_the_process_cancels_what_is_waited_for(server):
    job = a_job()
    async with waiting_for(server, job) as wait:
        wait.cancel()
    assert server.cancelled == [job.id]


async def test_a_job_of_which_nobody_knows_whether_it_was_enqueued_is_cancelled(server):
    server.lost_reply = RuntimeError("no such answer was foreseen")
    job = a_job()
    async with waiting_for(server, job) as wait:
        with pytest.raises(RuntimeError):
            await wait
    assert server.cancelled == [job.id]


async def test_a_job_that_cannot_be_cancelled_keeps_neither_the_others_nor_the_exit(server, caplog):
    stuck, other = a_job(), a_job()
    server.uncancellable = stuck.id
    async with JobWaiter(server, server, clock=lambda: server.now) as waiter:
        waiter.abandon(stuck)
        waiter.abandon(other)
    (said,) = (record for record in caplog.records if record.message == "job left uncancelled")
    assert server.cancelled == [other.id]
    assert said.job == stuck.id


A_KEY = IdempotencyKey(key="a", request="r")


async def test_all_who_give_the_same_key_get_the_end_of_one_job(server):
    jobs = [a_job() for _ in range(5)]
    async with JobWaiter(server, server, sweep_every=3600.0, clock=lambda: server.now) as waiter:
        waits = [asyncio.create_task(waiter.run(job, 1, A_KEY)) for job in jobs]
        while len(server.enqueued) < len(jobs):  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)
        server.end(jobs[0])
        records = await asyncio.gather(*waits)
    assert {record.id for record in records} == {jobs[0].id}


async def test_an_end_from_before_the_key_came_again_is_answered_at_once(server):
    first, second = a_job(), a_job()
    server.keys[A_KEY] = first.id
    server.end(first, say=False)
    async with JobWaiter(server, server, sweep_every=3600.0, clock=lambda: server.now) as waiter:
        record = await waiter.run(second, 1, A_KEY)
    assert record.id == first.id


async def test_a_job_with_a_key_outlives_its_client(server):
    async with JobWaiter(server, server, sweep_every=3600.0, clock=lambda: server.now) as waiter:
        wait = asyncio.create_task(waiter.run(a_job(), 1, A_KEY))
        while not server.enqueued:  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)
        wait.cancel()
        await asyncio.gather(wait, return_exceptions=True)
    assert server.cancelled == []


async def test_those_who_share_a_job_share_it_again_after_redis_forgot_it(server):
    jobs = [a_job(), a_job()]
    async with JobWaiter(server, server, sweep_every=0.0, clock=lambda: server.now) as waiter:
        waits = [asyncio.create_task(waiter.run(job, 1, A_KEY)) for job in jobs]
        while len(server.enqueued) < len(jobs):  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)
        server.records_by_id.clear()
        server.keys.clear()
        while not server.records_by_id:  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        (known,) = [each for each in jobs if each.id in server.records_by_id]
        server.end(known)
        records = await asyncio.gather(*waits)
    assert {record.id for record in records} == {known.id}


async def test_a_sweep_says_that_the_router_is_there(server):
    async with waiting_for(server, a_job(), sweep_every=0.0):
        while len(server.attending) < 2:  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)
    assert len(set(server.attending)) == 1


async def test_jobs_that_many_clients_left_hold_up_nobody_s_answer(server):
    stuck = asyncio.Event()

    async def cancel(job):
        await stuck.wait()
        server.cancelled.append(job)

    server.cancel = cancel
    job, left = a_job(), [a_job() for _ in range(100)]
    async with JobWaiter(server, server, sweep_every=3600.0, clock=lambda: server.now) as waiter:
        for each in left:
            waiter.abandon(each)
        wait = asyncio.create_task(waiter.run(job, 1))
        while not server.enqueued:  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)
        server.end(job)
        assert (await wait).id == job.id
        assert server.cancelled == []
        stuck.set()
    assert sorted(server.cancelled) == sorted(each.id for each in left)


async def test_a_silent_node_keeps_only_its_own_bases_from_being_cancelled(server):
    silent, others = RepoId("a/silent"), [a_job() for _ in range(20)]
    answers = asyncio.Event()

    async def cancel(job):
        if job_base_tag(job) == base_tag(silent):
            await answers.wait()
        server.cancelled.append(job)

    server.cancel = cancel
    async with JobWaiter(server, server, sweep_every=3600.0, clock=lambda: server.now) as waiter:
        for other in others:
            waiter.abandon(a_job(base=silent))
            waiter.abandon(other)
            async with asyncio.timeout(10):
                while other.id not in server.cancelled:  # noqa: ASYNC110 - a state, not an event
                    await asyncio.sleep(0)
        assert server.cancelled == [other.id for other in others]
        answers.set()
    assert len(server.cancelled) == 2 * len(others)


async def test_a_silent_node_holds_up_no_answer_of_another_s_bases_and_its_own_callers_are_told(server):
    silent, other = a_job(base=RepoId("a/silent")), a_job()
    never = asyncio.Event()

    def of_tag(tag):
        return hanging if tag == base_tag(silent.base) else server

    async def hang(*_):
        server.refused += 1
        if server.now:
            raise QueueUnavailable("no answer")
        await never.wait()

    hanging = SimpleNamespace(attend=hang, records=hang)
    server.of_tag = of_tag
    async with (
        JobWaiter(server, server, sweep_every=0.0, clock=lambda: server.now) as waiter,
        asyncio.timeout(10),
    ):
        told = asyncio.create_task(waiter.run(silent, 1))
        while not server.refused:  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)
        wait = asyncio.create_task(waiter.run(other, 1))
        while other.id not in server.enqueued:  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0)
        server.end(other)
        await wait

        server.now = 1.0
        never.set()
        asking = asyncio.create_task(waiter.run(a_job(), 1))  # of another base, which answers
        await server.has_refused()
        server.now = 12.0
        with pytest.raises(QueueUnavailable):
            await told
        assert not asking.done()
        asking.cancel()
