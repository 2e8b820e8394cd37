"""Errors as HTTP: which status, which words, when to come back. Nothing else decides a status."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType

from router.negotiation import NotAcceptable
from shared.errors import AmbiguousWeights, ErrorCode, InvalidRequest, QueueFull, WarmbaseError
from shared.jobs import JobId, JobRecord, JobResult, JobStatus

STATUS: Mapping[ErrorCode, HTTPStatus] = MappingProxyType(
    {
        ErrorCode.INVALID_REQUEST: HTTPStatus.UNPROCESSABLE_ENTITY,
        ErrorCode.REPO_NOT_FOUND: HTTPStatus.NOT_FOUND,
        ErrorCode.REPO_FORBIDDEN: HTTPStatus.FORBIDDEN,
        ErrorCode.UNSUPPORTED_MODEL: HTTPStatus.UNPROCESSABLE_ENTITY,
        ErrorCode.AMBIGUOUS_WEIGHTS: HTTPStatus.UNPROCESSABLE_ENTITY,
        ErrorCode.ADAPTER_REJECTED: HTTPStatus.UNPROCESSABLE_ENTITY,
        ErrorCode.NO_POOL_FOR_BASE: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.QUEUE_FULL: HTTPStatus.TOO_MANY_REQUESTS,
        ErrorCode.HUB_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.QUEUE_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.JOB_NOT_FOUND: HTTPStatus.NOT_FOUND,
        ErrorCode.JOB_CANCELLED: HTTPStatus.CONFLICT,
        ErrorCode.JOB_EXPIRED: HTTPStatus.GATEWAY_TIMEOUT,
        ErrorCode.RESULT_GONE: HTTPStatus.GONE,
        ErrorCode.NO_ROOM: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.WORKER_FAULT: HTTPStatus.INTERNAL_SERVER_ERROR,
    }
)

RETRY_AFTER: Mapping[ErrorCode, float] = MappingProxyType(
    {
        ErrorCode.NO_POOL_FOR_BASE: 30.0,
        ErrorCode.HUB_UNAVAILABLE: 5.0,
        ErrorCode.QUEUE_UNAVAILABLE: 2.0,
        ErrorCode.NO_ROOM: 10.0,
    }
)
"""Seconds, where the error itself does not know better."""

UNWANTED = "nobody waited for the job any more when its turn came; send the request again"
INTERNAL = "something went wrong here; the request id finds it in our log"


class JobNotFinished(InvalidRequest):
    """The image of a job was asked for before it was there."""

    def __init__(self, status: JobStatus) -> None:
        super().__init__("", f"the job is {status}: its image is not there yet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """An error as a client sees it.

    Attributes:
        field: path of the field that is wrong, if one is.
        choices: what the field may be, if that is a short list.
        retry_after: seconds.
        job: the job that ended so.
    """

    status: int
    code: ErrorCode
    message: str
    field: str | None = None
    choices: tuple[str, ...] = ()
    retry_after: int | None = None
    job: JobId | None = None


class EndedBadly(Exception):
    """A job ended without an image."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def problem_of(error: WarmbaseError) -> Problem:
    """Return the problem that an error is to the client."""
    return Problem(
        status=_status(error),
        code=error.code,
        message=error.message,
        field=(error.field or None) if isinstance(error, InvalidRequest | AmbiguousWeights) else None,
        choices=error.choices if isinstance(error, AmbiguousWeights) else (),
        retry_after=_retry_after(error),
    )


def problem_of_end(record: JobRecord) -> Problem | None:
    """Return why an ended job has no image; None if it has one.

    A worker's fault is told in general words: its own are for the log.
    """
    if record.status is JobStatus.CANCELLED:
        code, message = ErrorCode.JOB_CANCELLED, UNWANTED if record.unwanted else "the job was cancelled"
    elif record.error is not None:
        code, message = record.error.code, record.error.message
        if code is ErrorCode.WORKER_FAULT:
            message = "the worker failed at this job, not the request: try again"
    else:
        return None
    return Problem(
        status=STATUS[code],
        code=code,
        message=message,
        field=record.error.field if record.error else None,
        retry_after=_seconds(RETRY_AFTER.get(code)),
        job=record.id,
    )


def drawn(record: JobRecord) -> JobResult:
    """Return the result of a job that succeeded.

    Raises:
        JobNotFinished: it has not ended yet.
        EndedBadly: it ended without an image.
    """
    if not record.status.is_end:
        raise JobNotFinished(record.status)
    if problem := problem_of_end(record):
        raise EndedBadly(problem)
    if record.result is None:
        raise EndedBadly(problem_of_status(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL))
    return record.result


def problem_of_status(status: int, message: str) -> Problem:
    """Return the problem for an HTTP status that the web framework decided on."""
    code = ErrorCode.INVALID_REQUEST if status < HTTPStatus.INTERNAL_SERVER_ERROR else ErrorCode.WORKER_FAULT
    return Problem(status=status, code=code, message=message)


def _status(error: WarmbaseError) -> HTTPStatus:
    if isinstance(error, NotAcceptable):
        return HTTPStatus.NOT_ACCEPTABLE
    if isinstance(error, JobNotFinished):
        return HTTPStatus.CONFLICT
    return STATUS[error.code]


def _retry_after(error: WarmbaseError) -> int | None:
    return _seconds(error.retry_after if isinstance(error, QueueFull) else RETRY_AFTER.get(error.code))


def _seconds(value: float | None) -> int | None:
    return None if value is None else math.ceil(value)
