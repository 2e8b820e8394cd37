"""What becomes of a job whose attempt ended with an error: a pure decision."""

from dataclasses import dataclass, replace

from shared.errors import (
    AdapterRejected,
    ErrorCode,
    InvalidRequest,
    JobExpired,
    ResultGone,
    WarmbaseError,
    WorkerFault,
)
from shared.jobs import Job, JobError
from worker.engine.contract import AdapterFault, BrokenImage, Interrupted

_UNFORESEEN = "the worker failed for a reason that is not in the request; try again, or ask the operator"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """How the job ends, and whether another attempt may succeed."""

    error: JobError
    retry: bool


CANCELLED = Failure(
    error=JobError(code=ErrorCode.JOB_CANCELLED, message="the caller cancelled the job"), retry=False
)


def failure_of(error: Exception, job: Job) -> Failure:
    """Return what becomes of `job`.

    An interrupted job was cancelled, or its lease was lost: then nothing that is written about it counts.
    The texts of foreign exceptions stay in the log: they name paths and code, and clients read the message.
    """
    match error:
        case Interrupted():
            return CANCELLED
        case AdapterFault():
            return _failure(AdapterRejected(str(error)))
        case BrokenImage() if job.adapters:
            return _failure(AdapterRejected(f"{_named(job)}: {error}; a smaller scale may help"))
        case BrokenImage():
            return replace(_failure(WorkerFault(str(error))), retry=False)
        case WarmbaseError():
            return _failure(error)
        case _:
            return _failure(WorkerFault(_UNFORESEEN))


def is_unforeseen(error: Exception) -> bool:
    """Whether nothing is known of the state that `error` left behind."""
    return not isinstance(error, Interrupted | AdapterFault | BrokenImage | WarmbaseError)


def _failure(error: WarmbaseError) -> Failure:
    # An expired job has no time left for another attempt, and no attempt brings back the picture that it
    # starts from; its caller may send a new one.
    retry = error.retryable and not isinstance(error, JobExpired | ResultGone)
    field = error.field if isinstance(error, InvalidRequest) else None
    return Failure(error=JobError(code=error.code, message=error.message, field=field), retry=retry)


def _named(job: Job) -> str:
    return ", ".join(adapter.repo for adapter in job.adapters)
