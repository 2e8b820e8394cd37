import pytest

from router.negotiation import NotAcceptable
from router.problems import (
    STATUS,
    EndedBadly,
    JobNotFinished,
    drawn,
    problem_of,
    problem_of_end,
    problem_of_status,
)
from shared.errors import (
    AmbiguousWeights,
    ErrorCode,
    InvalidRequest,
    NoPoolForBase,
    QueueFull,
    WarmbaseError,
)
from shared.jobs import JobStatus
from tests.builders import a_record, a_result, an_error

EXPECTED = {
    "invalid_request": 422,
    "repo_not_found": 404,
    "repo_forbidden": 403,
    "unsupported_model": 422,
    "ambiguous_weights": 422,
    "adapter_rejected": 422,
    "no_pool_for_base": 503,
    "queue_full": 429,
    "hub_unavailable": 503,
    "queue_unavailable": 503,
    "job_not_found": 404,
    "job_cancelled": 409,
    "job_expired": 504,
    "result_gone": 410,
    "no_room": 503,
    "worker_fault": 500,
}
OF_THEIR_OWN = {
    InvalidRequest: lambda kind: kind("parameters.width", "is wrong"),
    AmbiguousWeights: lambda kind: kind("a/b", ("x", "y"), "parameters.weight_name"),
    QueueFull: lambda kind: kind("full", 1.2),
}


def test_every_code_has_a_status():
    assert {code.value: int(status) for code, status in STATUS.items()} == EXPECTED
    assert set(STATUS) == set(ErrorCode)


@pytest.mark.parametrize(
    "kind", [kind for kind in WarmbaseError.__subclasses__() if kind.__module__ == "shared.errors"]
)
def test_every_error_is_a_problem_with_words(kind):
    error = OF_THEIR_OWN.get(kind, lambda kind: kind("what and what to do"))(kind)
    problem = problem_of(error)

    assert problem.status == EXPECTED[kind.code]
    assert problem.message
    assert (problem.retry_after is not None) == (problem.status in {429, 503})


def test_a_wrong_field_is_named():
    assert problem_of(InvalidRequest("parameters.width", "is wrong")).field == "parameters.width"


def test_choices_are_listed():
    problem = problem_of(AmbiguousWeights("a/b", ("x", "y"), "parameters.loras[0].weight_name"))
    assert (problem.choices, problem.field) == (("x", "y"), "parameters.loras[0].weight_name")


def test_the_queue_says_when_to_come_back_in_whole_seconds():
    assert problem_of(QueueFull("full", 1.2)).retry_after == 2
    assert problem_of(NoPoolForBase("none")).retry_after == 30


def test_not_acceptable_and_not_finished_have_their_own_status():
    assert problem_of(NotAcceptable()).status == 406
    assert problem_of(JobNotFinished(JobStatus.RUNNING)).status == 409


def test_the_web_framework_s_statuses_are_the_client_s_or_ours():
    assert problem_of_status(404, "x").code is ErrorCode.INVALID_REQUEST
    assert problem_of_status(500, "x").code is ErrorCode.WORKER_FAULT


def test_a_job_that_succeeded_has_its_result():
    result = a_result()
    assert drawn(a_record(status=JobStatus.SUCCEEDED, result=result)) is result


def test_a_job_that_still_runs_has_none_yet():
    with pytest.raises(JobNotFinished):
        drawn(a_record(status=JobStatus.RUNNING))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"status": JobStatus.CANCELLED}, 409),
        ({"status": JobStatus.FAILED, "error": an_error(code=ErrorCode.JOB_EXPIRED)}, 504),
        ({"status": JobStatus.FAILED, "error": an_error(code=ErrorCode.ADAPTER_REJECTED)}, 422),
        ({"status": JobStatus.FAILED, "error": an_error()}, 500),
        ({"status": JobStatus.SUCCEEDED}, 500),
    ],
)
def test_a_job_that_ended_badly_says_how(changes, status):
    with pytest.raises(EndedBadly) as caught:
        drawn(a_record(**changes))
    assert caught.value.problem.status == status


def test_a_job_that_nobody_waited_for_is_told_from_one_that_was_cancelled():
    cancelled, unwanted = (
        problem_of_end(a_record(status=JobStatus.CANCELLED, unwanted=unwanted)) for unwanted in (False, True)
    )
    assert cancelled is not None
    assert unwanted is not None
    assert (cancelled.message, cancelled.code) == ("the job was cancelled", ErrorCode.JOB_CANCELLED)
    assert unwanted.code is ErrorCode.JOB_CANCELLED
    assert "send the request again" in unwanted.message


def test_a_worker_s_own_words_about_its_fault_stay_in_the_log():
    record = a_record(status=JobStatus.FAILED, error=an_error(message="CUDA error at 0x7f"))
    problem = problem_of_end(record)
    assert problem is not None
    assert "CUDA" not in problem.message
    assert problem.job == record.id
