"""The router's side of all bases' queues: admit a job, read its record and its image, cancel it."""

import asyncio
import hashlib
from collections.abc import Sequence
from functools import lru_cache

from redis.asyncio import Redis

from router.body import INPUTS, SourcePicture
from router.metrics import Metrics
from shared.errors import (
    AdapterRejected,
    InvalidRequest,
    JobNotFound,
    NoPoolForBase,
    NoRoom,
    QueueFull,
    QueueUnavailable,
    WarmbaseError,
    WorkerFault,
)
from shared.jobs import Job, JobId, JobRecord, JobResult, job_base_tag
from shared.queue.queue import JobQueue
from shared.queue.terms import Admission, Enqueued, IdempotencyKey, QueueSettings
from shared.refs import RepoId, base_tag
from shared.results.store import ImageTooLarge, ResultStore

QUEUES_KEPT = 256
SOURCE_MARGIN = 30.0
"""Seconds between the picture's way to the store and the job's to the queue, at most."""
NO_ROOM = "there is no room for the picture now, even without the older ones; try again in a moment"
SHORTEST_RETRY, LONGEST_RETRY = 1.0, 300.0

REFUSALS = (AdapterRejected, InvalidRequest, NoPoolForBase, QueueFull)
"""What `Queues.admit` raises when nothing was enqueued."""


class Queues:
    """The queues of all bases on one server."""

    def __init__(self, redis: Redis, settings: QueueSettings, metrics: Metrics, results: ResultStore) -> None:
        self._results = results
        self._metrics = metrics
        # Bounded, because the tag of a job id is a client's text.
        self.of_tag = lru_cache(QUEUES_KEPT)(lambda tag: JobQueue(redis, tag, settings))

    def of_base(self, base: RepoId) -> JobQueue:
        """Return the queue of a base."""
        return self.of_tag(base_tag(base))

    def of_job(self, job: JobId) -> JobQueue:
        """Return the queue that a job is or was on."""
        return self.of_tag(job_base_tag(job))

    async def admit(
        self, job: Job, workers: int, idempotency: IdempotencyKey | None = None, router: str = ""
    ) -> JobId:
        """Enqueue a job and return its id, or that of the job that a known idempotency key stands for.

        `router` is who alone waits for it, if that is so.

        Raises:
            QueueFull: as many jobs wait as may wait; `workers` live workers say how long to stay away.
            AdapterRejected: workers died with these adapters.
            NoPoolForBase: the base is being drained.
            InvalidRequest: the idempotency key stands for another request.
            QueueUnavailable: Redis does not answer.
        """
        admission = await self.of_job(job.id).enqueue(job, idempotency, router)
        _refuse(admission, job, workers)
        if admission.job == job.id:
            self._metrics.job_enqueued(job)
        return admission.job

    async def keep_source(
        self, job: Job, source: SourcePicture, workers: int, idempotency: IdempotencyKey | None = None
    ) -> None:
        """Keep the picture that a job starts from, for as long as the job may wait.

        Not that of a job which would not be admitted: it would take the place of other callers' images.

        Raises:
            QueueFull, AdapterRejected, NoPoolForBase, InvalidRequest: as `admit`.
            NoRoom: there is none for it now.
            InvalidRequest: it is larger than all that is kept may be.
            WorkerFault: the disk fails.
            QueueUnavailable: Redis does not answer.
        """
        _refuse(await self.of_job(job.id).enqueue(job, idempotency, only_asks=True), job, workers)
        try:
            await self._results.put_source(job.base, source.digest, source.data, job.timeout + SOURCE_MARGIN)
        except ImageTooLarge as error:
            raise InvalidRequest(INPUTS, f"an image has at most {error.most_bytes} bytes here") from error
        except NoRoom as error:
            raise NoRoom(NO_ROOM) from error

    async def record(self, job: JobId) -> JobRecord:
        """Return what Redis knows of a job.

        Raises:
            JobNotFound: nothing.
            QueueUnavailable: Redis does not answer.
        """
        return _known((await self.of_job(job).records([job]))[0])

    async def cancel(self, job: JobId) -> JobRecord:
        """Cancel a job and return its record; one that has ended stays as it is.

        Raises:
            JobNotFound: there is no such job.
            QueueUnavailable: Redis does not answer.
        """
        return _known(await self.of_job(job).cancel(job))

    async def image(self, result: JobResult) -> bytes:
        """Return the image of a job that succeeded, checked against its record.

        Raises:
            ResultGone: its time is over, or it made room for later ones.
            WorkerFault: the bytes are not those that the worker wrote about.
            QueueUnavailable: Redis does not answer.
        """
        image = await self._results.get(result.blob)
        if len(image) != result.size or hashlib.sha256(image).hexdigest() != result.digest:
            raise WorkerFault("the image is damaged: its bytes do not match the job's record")
        return image

    async def loads(self, bases: Sequence[RepoId]) -> dict[RepoId, tuple[int, int, float]]:
        """Return how many jobs wait, how many run, and how long the oldest has waited.

        Of each base whose queue answers: in a cluster, those of others may not.
        """
        loads = await asyncio.gather(*(self._load(self.of_base(base)) for base in bases))
        return {base: load for base, load in zip(bases, loads, strict=True) if load}

    async def _load(self, queue: JobQueue) -> tuple[int, int, float] | None:
        try:
            waiting, running = await queue.depth()
            return waiting, running, await queue.oldest_wait()
        except QueueUnavailable:
            return None


def _refuse(admission: Admission, job: Job, workers: int) -> None:
    if admission.outcome not in {Enqueued.ADDED, Enqueued.KNOWN}:
        raise refusal(admission, job, workers)


def refusal(admission: Admission, job: Job, workers: int) -> WarmbaseError:
    """Return why a job was not enqueued, and when to come again: the waiting work over the live workers."""
    seconds = min(max(admission.seconds / max(1, workers), SHORTEST_RETRY), LONGEST_RETRY)
    match admission.outcome:
        case Enqueued.CONFLICT:
            return InvalidRequest("Idempotency-Key", "came with another request before; use a new one")
        case Enqueued.QUARANTINED:
            return AdapterRejected(
                "worker after worker died with these adapters; "
                f"they are not run for another {admission.seconds:.0f} s"
            )
        case Enqueued.CLOSED:
            return NoPoolForBase(f"{job.base} is being drained by its operator and takes no new jobs")
        case Enqueued.TENANT_FULL:
            whose = f"you have enough jobs waiting for {job.base}"
        case _:
            whose = f"{job.base} has enough jobs waiting"
    return QueueFull(f"{whose}; try again in {seconds:.0f} s", seconds)


def _known(record: JobRecord | None) -> JobRecord:
    if record is None:
        raise JobNotFound("no such job, or its record has expired")
    return record
