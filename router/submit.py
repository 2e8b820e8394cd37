"""The use case: from a checked request to a job on a base's queue, and to its end. Knows no web framework."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from router.base_aliases import current_id
from router.body import SourcePicture
from router.callers import idempotency_of, tenant_of
from router.catalogue import Catalogue
from router.classify import Classification, FullModel, LoraAdapter, Unsupported, classify
from router.hub_metadata import REVISION
from router.metrics import Metrics
from router.placement import Placement, find_pool, place, serving_pools
from router.problems import drawn
from router.queues import REFUSALS, Queues
from router.schemas import GenerationRequest
from router.waiting import JobWaiter
from shared.config import Limits
from shared.errors import (
    ErrorCode,
    InvalidRequest,
    NoRoom,
    QueueFull,
    RepoForbidden,
    ResultGone,
    WarmbaseError,
)
from shared.jobs import Job, JobRecord, JobResult, JobStatus, new_job_id
from shared.pools import BasePool
from shared.queue.terms import IdempotencyKey
from shared.refs import RepoId, Revision
from shared.sealing import Sealer

logger = logging.getLogger(__name__)

RANDOM_SEEDS = 2**32
"""Random seeds lie below this: people copy them, and JavaScript keeps them exact."""

MOST_HELD = 512 << 20
"""Bytes of pictures that a router holds for those who wait; with their requests two to three times that."""
HELD_RETRY = 5.0

_VERDICTS = {LoraAdapter: "lora", FullModel: "full", Unsupported: "unsupported"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A job that is ready to be enqueued.

    Attributes:
        model: today's id of the path's model, to find it in the result.
        workers: how many serve the base now.
        source: the picture that the job starts from.
    """

    job: Job
    model: RepoId
    workers: int
    source: SourcePicture | None = None
    idempotency: IdempotencyKey | None = None


class Submissions:
    """Makes jobs of requests, and sees them through.

    Args of the constructor: `live_pools` returns the pools that are served now; `sealer` is None in a
    deployment without a secret; `timeout` is in seconds.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        live_pools: Callable[[], Awaitable[Sequence[BasePool]]],
        queues: Queues,
        waiter: JobWaiter,
        metrics: Metrics,
        sealer: Sealer | None,
        limits: Limits,
        timeout: float,
    ) -> None:
        self._catalogue = catalogue
        self._live_pools = live_pools
        self._queues = queues
        self._waiter = waiter
        self._metrics = metrics
        self._sealer = sealer
        self._limits = limits
        self._timeout = timeout
        self._held = 0

    async def prepare(self, request: GenerationRequest, token: str | None) -> Submission:
        """Return the job for a request. Nothing is enqueued yet.

        Raises:
            WarmbaseError: why the request cannot be served.
        """
        tenant, pools = tenant_of(token), await self._live_pools()
        model, *others = await asyncio.gather(
            self._model(request.model, request.revision, pools, token, "parameters.revision"),
            *(
                self._classify(wanted.repo, wanted.revision, token, f"{wanted.parent}.revision")
                for wanted in request.adapters
            ),
        )
        seed = secrets.randbelow(RANDOM_SEEDS)
        placement = place(request, model, others, pools, limits=self._limits, seed=seed)
        pool = find_pool(placement.base, pools)
        return Submission(
            job=Job(
                id=new_job_id(placement.base),
                base=placement.base,
                adapters=placement.adapters,
                params=placement.params,
                sealed_token=await self._authorised(placement, token),
                timeout=self._timeout,
                priority=request.priority,
                tenant=tenant,
            ),
            idempotency=idempotency_of(request, tenant),
            model=model.repo,
            source=request.source,
            workers=len(pool.workers) if pool else 0,
        )

    async def enqueue(self, submission: Submission) -> JobRecord:
        """Enqueue the job for a client that will ask for its end later.

        If the client does not get the job's id, the job is cancelled.

        Raises:
            QueueFull: as many jobs wait as may wait.
            NoRoom: the picture that the job starts from finds none.
            QueueUnavailable: Redis does not answer.
        """
        job = submission.job
        await self._keep_source(submission)
        try:
            admitted = await self._queues.admit(job, submission.workers, submission.idempotency)
            return await self._queues.record(admitted)
        except REFUSALS:
            raise
        except BaseException:
            self._waiter.abandon(job, submission.idempotency)
            raise

    async def run(self, submission: Submission) -> JobRecord:
        """Enqueue the job and return its record once it has ended, well or badly.

        Raises:
            QueueFull: as many jobs wait as may wait.
            NoRoom: the picture that the job starts from finds none.
            QueueUnavailable: Redis does not answer, or has not for longer than a wait survives.
            JobExpired: the job's time is over.
        """
        begin, job = time.monotonic(), submission.job
        outcome, reason = JobStatus.CANCELLED.value, "client_left"
        try:
            await self._keep_source(submission)
            record = await self._waiter.run(job, submission.workers, submission.idempotency)
            outcome, reason = _outcome(record)
        except (*REFUSALS, NoRoom):
            outcome = ""  # there was no job
            raise
        except WarmbaseError as error:
            outcome, reason = _failure(error.code)
            raise
        finally:
            if outcome:
                self._metrics.job_finished(job, outcome, reason, time.monotonic() - begin)
        return record

    async def draw(self, submission: Submission) -> tuple[JobRecord, bytes]:
        """Run the job and return its record with its image.

        An image that is gone before it could be read, or whose source was gone before the worker read it, is
        drawn once more: under a new id, with the same seed, in what is left of the request's time.

        Raises:
            EndedBadly: the job ended without an image.
            QueueFull: this router holds as many pictures of those who wait as it may.
            WarmbaseError: as `run` and `Queues.image`.
        """
        with self._holding(submission.source):
            return await self._draw(submission)

    async def _draw(self, submission: Submission) -> tuple[JobRecord, bytes]:
        begin = time.monotonic()
        record = await self.run(submission)
        seed = submission.job.params.seed
        try:
            result = _drawn(record)
            # of a key's job, which another request may have begun
            seed = result.seed
            return record, await self._queues.image(result)
        except ResultGone:
            left = submission.job.timeout - (time.monotonic() - begin)
            if left <= 0:
                raise
        logger.warning("image gone before it was read", extra={"action": "run_again", "job": record.id})
        job = submission.job
        params = replace(job.params, seed=seed)
        # no second job under the key
        again = replace(job, id=new_job_id(job.base), params=params, timeout=left)
        record = await self.run(replace(submission, job=again, idempotency=None))
        return record, await self._queues.image(drawn(record))

    @contextmanager
    def _holding(self, source: SourcePicture | None) -> Iterator[None]:
        """Count the picture while its request waits: it may have to be sent once more."""
        size = len(source.data) if source else 0
        if size and self._held + size > MOST_HELD:
            raise QueueFull("enough pictures wait here; try again", HELD_RETRY)
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    async def _keep_source(self, submission: Submission) -> None:
        """Have the picture in the store before its job is in the queue."""
        if submission.source is not None:
            await self._queues.keep_source(
                submission.job, submission.source, submission.workers, submission.idempotency
            )

    async def inspect(
        self, repo: RepoId, revision: str | None, token: str | None
    ) -> tuple[Classification, tuple[BasePool, ...]]:
        """Return what an id is, and the live pools that serve it, the one that a request gets first.

        Raises:
            WarmbaseError: the id cannot be looked up.
        """
        pools = await self._live_pools()
        found = await self._model(repo, revision, pools, token, REVISION)
        return found, serving_pools(found, pools)

    async def _model(
        self, repo: RepoId, revision: str | None, pools: Sequence[BasePool], token: str | None, field: str
    ) -> Classification:
        """Return what the path names; `field` is where its revision stands.

        A base that runs needs no Hub: its workers said what they hold.
        """
        pool = find_pool(repo, pools)
        if pool is None:
            return await self._classify(repo, revision, token, field)
        worker = pool.workers[0]
        if revision not in {None, worker.base_revision}:
            raise InvalidRequest(field, f"{pool.base} runs at commit {worker.base_revision}; leave it out")
        return _running(pool)

    async def _classify(
        self, repo: RepoId, revision: str | None, token: str | None, field: str
    ) -> Classification:
        try:
            found = classify(await self._catalogue.look_up(repo, revision, token))
        except InvalidRequest as error:
            raise InvalidRequest(field if error.field == REVISION else error.field, error.problem) from error
        self._metrics.classified(_VERDICTS[type(found)])
        return found

    async def _authorised(self, placement: Placement, token: str | None) -> str | None:
        """Return the caller's token sealed for the worker if an adapter needs it, else None."""
        if not placement.restricted:
            return None
        await asyncio.gather(*(self._catalogue.authorise(ref, token) for ref in placement.restricted))
        if self._sealer is None:
            raise RepoForbidden(
                "this deployment serves no gated or private adapters: it has no WARMBASE_SECRET to seal"
                " the token with"
            )
        return self._sealer.seal(token or "")


def _running(pool: BasePool) -> FullModel:
    worker = pool.workers[0]
    return FullModel(
        repo=current_id(pool.base),
        revision=Revision(worker.base_revision),
        pipeline_class=worker.pipeline_class,
        evidence=("a pool serves it",),
    )


def _drawn(record: JobRecord) -> JobResult:
    """As `problems.drawn`, but a job whose source was gone is one whose image is."""
    if record.error is not None and record.error.code is ErrorCode.RESULT_GONE:
        raise ResultGone(record.error.message)
    return drawn(record)


def _outcome(record: JobRecord) -> tuple[str, str]:
    if record.error is not None:
        return _failure(record.error.code)
    return record.status.value, ""


def _failure(code: ErrorCode) -> tuple[str, str]:
    return ("expired" if code is ErrorCode.JOB_EXPIRED else JobStatus.FAILED.value), code.value
