"""The router's side of all bases' queues: admit a job, read its record and its image, cancel it."""

import asyncio
import hashlib
from collections.abc import Sequence
from functools import lru_cache

from redis.asyncio import Redis

from router.metrics import Metrics
from shared.errors import JobNotFound, QueueFull, WorkerFault
from shared.jobs import Job, JobId, JobRecord, JobResult, job_base_tag
from shared.queue.queue import Enqueued, JobQueue, QueueSettings
from shared.refs import RepoId, base_tag
from shared.results import ResultStore

RESULT_TTL = 600
"""Seconds that images are kept; here only for the store's constructor, the worker writes them."""

QUEUES_KEPT = 256
FIRST_GUESS = 5.0
"""Seconds a job takes, before this router has seen one of that base."""
LATEST_WEIGHT = 0.2
SHORTEST_RETRY, LONGEST_RETRY = 1.0, 300.0


class Pace:
    """How long jobs of each base take lately: an exponential moving average of seconds on the GPU."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def observe(self, tag: str, seconds: float) -> None:
        """Take one more job into account."""
        before = self._seconds.get(tag, seconds)
        self._seconds[tag] = before + LATEST_WEIGHT * (seconds - before)

    def drain_seconds(self, tag: str, waiting: int, workers: int) -> float:
        """Return how long `workers` take for `waiting` jobs, within the bounds of a `Retry-After`."""
        seconds = waiting * self._seconds.get(tag, FIRST_GUESS) / max(1, workers)
        return min(max(seconds, SHORTEST_RETRY), LONGEST_RETRY)


class Queues:
    """The queues of all bases on one server."""

    def __init__(self, redis: Redis, settings: QueueSettings, metrics: Metrics) -> None:
        self._redis = redis
        self._metrics = metrics
        self.pace = Pace()
        # Bounded, because the tag of a job id is a client's text.
        self.of_tag = lru_cache(QUEUES_KEPT)(lambda tag: JobQueue(redis, tag, settings))

    def of_base(self, base: RepoId) -> JobQueue:
        """Return the queue of a base."""
        return self.of_tag(base_tag(base))

    def of_job(self, job: JobId) -> JobQueue:
        """Return the queue that a job is or was on."""
        return self.of_tag(job_base_tag(job))

    async def admit(self, job: Job, workers: int) -> None:
        """Enqueue a job.

        Raises:
            QueueFull: as many jobs wait as may wait; `workers` live workers say how long to stay away.
            QueueUnavailable: Redis does not answer.
        """
        queue = self.of_job(job.id)
        if await queue.enqueue(job) is Enqueued.FULL:
            waiting, _ = await queue.depth()
            seconds = self.pace.drain_seconds(job_base_tag(job.id), waiting, workers)
            raise QueueFull(f"{waiting} jobs wait for {job.base}; try again in {seconds:.0f} s", seconds)
        self._metrics.job_enqueued(job)

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

    async def image(self, job: JobId, result: JobResult) -> bytes:
        """Return the image of a job that succeeded, checked against its record.

        Raises:
            ResultGone: its time is over.
            WorkerFault: the bytes are not those that the worker wrote about.
            QueueUnavailable: Redis does not answer.
        """
        image = await ResultStore(self._redis, job_base_tag(job), RESULT_TTL).get(result.blob)
        if len(image) != result.size or hashlib.sha256(image).hexdigest() != result.digest:
            raise WorkerFault("the image is damaged: its bytes do not match the job's record")
        return image

    async def loads(self, bases: Sequence[RepoId]) -> list[tuple[int, int, float]]:
        """Return for each base how many jobs wait, how many run, and how long the oldest has waited.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        return list(await asyncio.gather(*(self._load(self.of_base(base)) for base in bases)))

    async def _load(self, queue: JobQueue) -> tuple[int, int, float]:
        waiting, running = await queue.depth()
        return waiting, running, await queue.oldest_wait()


def _known(record: JobRecord | None) -> JobRecord:
    if record is None:
        raise JobNotFound("no such job, or its record has expired")
    return record
