import asyncio
from dataclasses import replace

import pytest

from router.body import SourcePicture
from router.submit import MOST_HELD, Submission, Submissions
from shared.errors import JobNotFound, QueueFull, QueueUnavailable
from tests.builders import a_job, a_record


class Queue:
    """A queue and a waiter that fail as told. `reached` is set once the call that never ends is made."""

    def __init__(self, *, admit=None, record=None):
        self._errors = {"admit": admit, "record": record}
        self.reached = asyncio.Event()
        self.abandoned = []

    async def admit(self, job, _workers, _idempotency):
        await self._do("admit")
        return job.id

    async def record(self, job):
        await self._do("record")
        return a_record(id=job)

    def abandon(self, job, _idempotency):
        self.abandoned.append(job)

    async def _do(self, step):
        error = self._errors[step]
        if error == "hang":
            self.reached.set()
            await asyncio.Event().wait()
        elif error:
            raise error


def submissions(queue):
    return Submissions(
        catalogue=None,
        live_pools=None,
        queues=queue,
        waiter=queue,
        metrics=None,
        sealer=None,
        limits=None,
        timeout=60.0,
    )


def a_submission():
    job = a_job()
    return Submission(job=job, model=job.base, workers=1)


async def test_a_job_that_its_client_knows_is_not_abandoned():
    queue, submission = Queue(), a_submission()
    record = await submissions(queue).enqueue(submission)

    assert record.id == submission.job.id
    assert queue.abandoned == []


async def test_a_job_that_was_not_taken_is_not_abandoned():
    queue = Queue(admit=QueueFull("full", 3.0))
    with pytest.raises(QueueFull):
        await submissions(queue).enqueue(a_submission())

    assert queue.abandoned == []


@pytest.mark.parametrize("step", ["admit", "record"])
@pytest.mark.parametrize("error", [QueueUnavailable("down"), JobNotFound("gone"), RuntimeError("unforeseen")])
async def test_a_job_whose_id_nobody_got_is_abandoned(step, error):
    queue, submission = Queue(**{step: error}), a_submission()
    with pytest.raises(type(error)):
        await submissions(queue).enqueue(submission)

    assert queue.abandoned == [submission.job]


async def test_pictures_of_those_who_wait_are_held_up_to_a_number_of_bytes():
    asked = submissions(Queue())
    asked._held = MOST_HELD - 7
    source = SourcePicture(data=b"8 bytes.", digest="ab" * 32)
    with pytest.raises(QueueFull, match="try again"):
        await asked.draw(replace(a_submission(), source=source))
    assert asked._held == MOST_HELD - 7


@pytest.mark.parametrize("step", ["admit", "record"])
async def test_a_job_whose_client_leaves_before_it_got_the_id_is_abandoned(step):
    queue, submission = Queue(**{step: "hang"}), a_submission()
    beginning = asyncio.create_task(submissions(queue).enqueue(submission))
    await queue.reached.wait()
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning

    assert queue.abandoned == [submission.job]
