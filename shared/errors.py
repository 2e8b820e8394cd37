"""The error tree: one root, one class per way a request can end badly.

WarmbaseError
├── InvalidRequest        a field of the request is wrong; change it
├── RepoNotFound          the id names nothing on the Hub that this caller may see
├── RepoForbidden         gated, private or disabled, and the caller has no access
├── UnsupportedModel      the repository is no adapter or base that can be served
├── AmbiguousWeights      not clear which weight file; the request has to choose
├── AdapterRejected       the weight file is broken or does not fit its base
├── NoPoolForBase         no worker serves the base now
├── QueueFull             the base has more waiting jobs than it may have
├── HubUnavailable        the Hub does not answer; try again
├── QueueUnavailable      Redis does not answer; try again
├── JobNotFound           no such job, or its record has expired
├── JobCancelled          the caller cancelled the job
├── JobExpired            the deadline passed before an answer was there
├── ResultGone            the image's bytes have expired; run the job again
├── NoRoom                the result store is full; try again
└── WorkerFault           the job failed through no fault of the request

A code is stable: it crosses Redis in a job's record and HTTP in `X-Error-Code`. Which HTTP status it
becomes is decided in the router alone.
"""

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """The stable name of each error, as clients and dashboards see it."""

    INVALID_REQUEST = "invalid_request"
    REPO_NOT_FOUND = "repo_not_found"
    REPO_FORBIDDEN = "repo_forbidden"
    UNSUPPORTED_MODEL = "unsupported_model"
    AMBIGUOUS_WEIGHTS = "ambiguous_weights"
    ADAPTER_REJECTED = "adapter_rejected"
    NO_POOL_FOR_BASE = "no_pool_for_base"
    QUEUE_FULL = "queue_full"
    HUB_UNAVAILABLE = "hub_unavailable"
    QUEUE_UNAVAILABLE = "queue_unavailable"
    JOB_NOT_FOUND = "job_not_found"
    JOB_CANCELLED = "job_cancelled"
    JOB_EXPIRED = "job_expired"
    RESULT_GONE = "result_gone"
    NO_ROOM = "no_room"
    WORKER_FAULT = "worker_fault"


class WarmbaseError(Exception):
    """The root. `code` names the error; `retryable` says whether the same request may succeed later."""

    code: ClassVar[ErrorCode]
    retryable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        """What a person reads: what was wrong and what to do."""
        return str(self)


class InvalidRequest(WarmbaseError):
    """A field of the request is wrong: its path, as in `parameters.width`, and what is wrong with it."""

    code = ErrorCode.INVALID_REQUEST

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


class RepoNotFound(WarmbaseError):
    """The id names nothing on the Hub that this caller may see."""

    code = ErrorCode.REPO_NOT_FOUND


class RepoForbidden(WarmbaseError):
    """The repository is gated, private or disabled and the caller's token does not open it."""

    code = ErrorCode.REPO_FORBIDDEN


class UnsupportedModel(WarmbaseError):
    """The repository is neither an adapter nor a base that can be served; the message says why."""

    code = ErrorCode.UNSUPPORTED_MODEL


class AmbiguousWeights(WarmbaseError):
    """It is not clear which weight file is meant; the request has to name one of `choices` in `field`."""

    code = ErrorCode.AMBIGUOUS_WEIGHTS

    def __init__(self, repo: str, choices: tuple[str, ...], field: str) -> None:
        super().__init__(
            f"{repo}: it is not clear which weight file is meant; name one in {field}: {', '.join(choices)}"
        )
        self.choices = choices
        self.field = field


class AdapterRejected(WarmbaseError):
    """The weight file is broken, hostile, or does not fit its base. No weight was touched."""

    code = ErrorCode.ADAPTER_REJECTED


class NoPoolForBase(WarmbaseError):
    """No worker serves the base now."""

    code = ErrorCode.NO_POOL_FOR_BASE
    retryable = True


class QueueFull(WarmbaseError):
    """The base has as many waiting jobs as it may have. `retry_after` is in seconds."""

    code = ErrorCode.QUEUE_FULL
    retryable = True

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class HubUnavailable(WarmbaseError):
    """The Hub does not answer, and nothing known can stand in for its answer."""

    code = ErrorCode.HUB_UNAVAILABLE
    retryable = True


class QueueUnavailable(WarmbaseError):
    """Redis does not answer. Callers fail fast; waiters wait for it to come back."""

    code = ErrorCode.QUEUE_UNAVAILABLE
    retryable = True


class JobNotFound(WarmbaseError):
    """No such job: the id was never given out, or its record has expired."""

    code = ErrorCode.JOB_NOT_FOUND


class JobCancelled(WarmbaseError):
    """The caller cancelled the job, or left before its end."""

    code = ErrorCode.JOB_CANCELLED


class JobExpired(WarmbaseError):
    """The deadline passed before the job could end."""

    code = ErrorCode.JOB_EXPIRED
    retryable = True


class ResultGone(WarmbaseError):
    """The job succeeded, but its image has expired from the result store."""

    code = ErrorCode.RESULT_GONE
    retryable = True


class NoRoom(WarmbaseError):
    """The result store has no room for an image or a picture, even without the older ones."""

    code = ErrorCode.NO_ROOM
    retryable = True


class WorkerFault(WarmbaseError):
    """The job failed through no fault of the request; another attempt may succeed."""

    code = ErrorCode.WORKER_FAULT
    retryable = True
