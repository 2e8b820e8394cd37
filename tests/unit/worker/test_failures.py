import pytest

from shared.errors import (
    AdapterRejected,
    ErrorCode,
    HubUnavailable,
    InvalidRequest,
    JobExpired,
    RepoForbidden,
    RepoNotFound,
    WorkerFault,
)
from tests.builders import a_job
from worker.engine.contract import AdapterFault, BaseDamaged, BrokenImage, Interrupted
from worker.failures import CANCELLED, failure_of, is_unforeseen

BARE = a_job(adapters=())


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (AdapterFault("tensor x has 3 dimensions"), ErrorCode.ADAPTER_REJECTED, False),
        (AdapterRejected("too large"), ErrorCode.ADAPTER_REJECTED, False),
        (RepoNotFound("gone"), ErrorCode.REPO_NOT_FOUND, False),
        (RepoForbidden("gated"), ErrorCode.REPO_FORBIDDEN, False),
        (InvalidRequest("parameters.width", "too wide"), ErrorCode.INVALID_REQUEST, False),
        (JobExpired("too late"), ErrorCode.JOB_EXPIRED, False),
        (HubUnavailable("down"), ErrorCode.HUB_UNAVAILABLE, True),
        (WorkerFault("no secret"), ErrorCode.WORKER_FAULT, True),
        (BrokenImage("NaN"), ErrorCode.WORKER_FAULT, False),
        (BaseDamaged("weights differ"), ErrorCode.WORKER_FAULT, True),
        (RuntimeError("CUDA out of memory"), ErrorCode.WORKER_FAULT, True),
    ],
)
def test_an_error_becomes_a_code_and_a_chance(error: Exception, code: ErrorCode, *, retry: bool) -> None:
    failure = failure_of(error, BARE)

    assert (failure.error.code, failure.retry) == (code, retry)


def test_a_broken_image_is_the_adapters_fault_when_there_are_any() -> None:
    failure = failure_of(BrokenImage("NaN"), a_job())

    assert (failure.error.code, failure.retry) == (ErrorCode.ADAPTER_REJECTED, False)
    assert "someone/crayon" in failure.error.message


def test_the_text_of_a_foreign_error_does_not_reach_the_client() -> None:
    failure = failure_of(OSError(2, "No such file", "/home/alice/weights"), BARE)

    assert "alice" not in failure.error.message


def test_an_interrupted_job_ends_cancelled() -> None:
    assert failure_of(Interrupted(), BARE) is CANCELLED


@pytest.mark.parametrize("error", [AdapterFault(""), Interrupted(), BrokenImage(""), HubUnavailable("")])
def test_what_has_a_meaning_is_not_unforeseen(error: Exception) -> None:
    assert not is_unforeseen(error)


@pytest.mark.parametrize("error", [RuntimeError(), MemoryError(), BaseDamaged()])
def test_after_anything_else_the_base_is_in_doubt(error: Exception) -> None:
    assert is_unforeseen(error)
