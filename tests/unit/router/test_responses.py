import json

from hypothesis import given
from hypothesis import strategies as st

from router.classify import FullModel
from router.problems import Problem
from router.responses import (
    LONGEST_HEADER,
    classification_view,
    image_headers,
    image_response,
    job_view,
    path_commit,
    problem_response,
)
from shared.errors import ErrorCode
from shared.jobs import JobStatus
from shared.pools import BasePool
from shared.refs import RepoId, Revision
from tests.builders import COMMIT, a_record, a_result, a_worker, an_adapter, an_error


def test_headers_tell_what_the_worker_recorded():
    result = a_result(seed=99, steps=4, adapters=(an_adapter(scale=0.5),), base_revision="c" * 40)
    record = a_record(status=JobStatus.SUCCEEDED, started_at=1_700_000_001.25, result=result)
    headers = image_headers(record, result)

    assert headers["X-Job-Id"] == record.id
    assert headers["X-Warmbase-Seed"] == "99"
    assert headers["X-Warmbase-Steps"] == "4"
    assert headers["X-Warmbase-Base-Commit"] == "c" * 40
    assert headers["X-Warmbase-Queue-Seconds"] == "1.250"
    assert json.loads(headers["X-Warmbase-Adapters"]) == [
        {
            "repo": "someone/crayon",
            "revision": COMMIT,
            "weight_name": an_adapter().weight_name,
            "scale": 0.5,
            "sha256": result.adapter_digests[0],
        }
    ]
    assert headers["X-Warmbase-Digest"] == result.digest


def test_of_what_serves_an_id_it_is_told_what_is_a_copy():
    copy, original = RepoId("someone/flux-nf4"), RepoId("lab/flux")
    pool = BasePool(base=copy, workers=(a_worker(base=copy, copy_of=original),))
    found = FullModel(repo=copy, revision=COMMIT, pipeline_class="FluxPipeline", evidence=())

    assert classification_view(found, [pool])["served_by"] == [
        {"base": copy, "workers": 1, "copy_of": original}
    ]


def test_strengths_of_parts_and_over_time_are_told_when_they_were_asked_for():
    ref = an_adapter(blocks=(("unet.mid_block", 0.5),), schedule=((0.5, 0.0),))
    headers = image_headers(a_record(), a_result(adapters=(ref,)))
    (told,) = json.loads(headers["X-Warmbase-Adapters"])

    assert (told["blocks"], told["schedule"]) == ([["unet.mid_block", 0.5]], [[0.5, 0.0]])


def test_a_header_that_clients_would_refuse_leaves_out_what_makes_it_long():
    blocks = tuple((f"unet.up_blocks.{number}.*.0", 0.5) for number in range(64))
    headers = image_headers(a_record(), a_result(adapters=(an_adapter(blocks=blocks),) * 4))
    told = json.loads(headers["X-Warmbase-Adapters"])

    assert len(headers["X-Warmbase-Adapters"]) < 4000
    assert [each["blocks"] for each in told] == ["left out"] * 4


def test_a_warning_is_a_header_of_one_bounded_line():
    result = a_result(warnings=("a/b: 1 of its layers\r\nSet-Cookie: x", "c/d: ünknown " + "y" * 1000))
    header = image_headers(a_record(), result)["X-Warmbase-Warning"]

    assert header.startswith("a/b: 1 of its layers  Set-Cookie: x; c/d: \\xfcnknown yyy")
    assert len(header) == LONGEST_HEADER
    assert header.isprintable()


def test_without_a_warning_there_is_no_header_for_it():
    assert "X-Warmbase-Warning" not in image_headers(a_record(), a_result(warnings=()))


def test_the_path_s_commit_is_its_adapter_s_or_else_the_base_s():
    result = a_result(base_revision="c" * 40, adapters=(an_adapter(revision=Revision("d" * 40)),))

    assert path_commit(RepoId("someone/crayon"), result) == "d" * 40
    assert path_commit(RepoId("the/base"), result) == "c" * 40


def test_an_image_wrapped_into_json_says_its_seed():
    result = a_result()
    body = json.loads(image_response(b"abc", result, {}, as_json=True).text or "")

    assert body["data"] == [{"b64_json": "YWJj"}]
    assert body["seed"] == result.seed


def test_a_job_s_view_shows_progress_and_links():
    view = job_view(a_record(status=JobStatus.RUNNING, started_at=1_700_000_002.0, progress=(3, 20)))

    assert view["status"] == "running"
    assert view["progress"] == {"step": 3, "total": 20}
    assert view["queue_seconds"] == 2.0
    assert view["result"] is None
    assert view["error"] is None


def test_a_job_s_progress_is_null_until_its_first_step():
    view = job_view(a_record(status=JobStatus.RUNNING, progress=None))

    assert view["progress"] == {"step": None, "total": None}


def test_a_failed_job_s_view_shows_its_error():
    view = job_view(
        a_record(status=JobStatus.FAILED, error=an_error(code=ErrorCode.JOB_EXPIRED, message="late"))
    )

    assert view["error"] == {"code": "job_expired", "message": "late"}


@given(st.text())
def test_no_message_breaks_out_of_its_header(message):
    response = problem_response(Problem(status=422, code=ErrorCode.INVALID_REQUEST, message=message))
    header = response.headers["X-Error-Message"]

    assert header.isascii()
    assert header.isprintable()
    assert json.loads(response.text or "")["error"] == message
