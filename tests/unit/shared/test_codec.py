import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codec import (
    RECORD_FIELDS,
    CodecError,
    decode_error,
    decode_job,
    decode_record,
    decode_result,
    encode_error,
    encode_job,
    encode_result,
)
from shared.jobs import GenerationParams, Job, JobError, JobId, JobResult, JobStatus, Timings
from shared.refs import AdapterRef
from tests.builders import a_job, a_result, an_error

numbers = st.floats(allow_nan=False, allow_infinity=False)
adapters = st.lists(st.builds(AdapterRef, scale=numbers), max_size=3).map(tuple)
params = st.builds(GenerationParams, guidance_scale=st.none() | numbers)
jobs = st.builds(Job, adapters=adapters, params=params, timeout=numbers)
results = st.builds(
    JobResult,
    adapters=adapters,
    guidance_scale=numbers,
    timings=st.builds(Timings, fetch=numbers, swap=numbers, inference=numbers, encode=numbers),
)

WAYS = {
    "job": (encode_job, decode_job, a_job(sealed_token="sealed")),
    "result": (encode_result, decode_result, a_result()),
    "error": (encode_error, decode_error, an_error()),
}
every_way = pytest.mark.parametrize(("encode", "decode", "value"), WAYS.values(), ids=WAYS.keys())


@given(jobs)
def test_a_job_comes_back_equal(job):
    assert decode_job(encode_job(job)) == job


@given(results)
def test_a_result_comes_back_equal(result):
    assert decode_result(encode_result(result)) == result


@given(st.builds(JobError))
def test_an_error_comes_back_equal(error):
    assert decode_error(encode_error(error)) == error


@every_way
def test_types_survive(encode, decode, value):
    assert repr(decode(encode(value))) == repr(value)


@every_way
@given(data=st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_other_bytes_are_refused(encode, decode, value, data):
    with pytest.raises(CodecError):
        decode(data)


@every_way
def test_an_unknown_field_is_refused(encode, decode, value):
    raw = json.loads(encode(value))
    with pytest.raises(CodecError):
        decode(json.dumps({**raw, "unheard_of": 1}).encode())


@every_way
def test_a_missing_field_is_refused(encode, decode, value):
    raw = json.loads(encode(value))
    for name in raw:
        with pytest.raises(CodecError):
            decode(json.dumps({key: raw[key] for key in raw if key != name}).encode())


@every_way
@pytest.mark.parametrize("wrong", [None, True, [1], {"x": 1}, 1.5, "9" * 70])
def test_a_field_of_a_wrong_type_is_refused(encode, decode, value, wrong):
    raw = json.loads(encode(value))
    for name, right in raw.items():
        also = {"sealed_token": str | None, "field": str | None, "strength": float | None}.get(name)
        if not isinstance(wrong, type(right)) and not (also and isinstance(wrong, also)):
            with pytest.raises(CodecError):
                decode(json.dumps({**raw, name: wrong}).encode())


def test_true_is_no_number():
    raw = json.loads(encode_job(a_job()))
    raw["params"]["seed"] = True
    with pytest.raises(CodecError, match="seed"):
        decode_job(json.dumps(raw).encode())


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_is_refused(constant):
    data = encode_job(a_job(timeout=1234.5)).replace(b"1234.5", constant.encode())
    with pytest.raises(CodecError, match=constant):
        decode_job(data)


@pytest.mark.parametrize("timeout", [float("nan"), float("inf")])
def test_it_is_not_written_either(timeout):
    with pytest.raises(ValueError, match="JSON compliant"):
        encode_job(a_job(timeout=timeout))


def test_a_job_of_another_version_is_refused():
    data = encode_job(a_job()).replace(b'"version":3', b'"version":2')
    with pytest.raises(CodecError, match="version"):
        decode_job(data)


def record(**values):
    known = {"status": b"queued", "attempts": b"0", "crashes": b"0", "enqueued_at": b"1700000000.25"}
    return [{**known, **values}.get(name) for name in RECORD_FIELDS]


def test_a_hash_that_is_not_there_is_no_record():
    assert decode_record(JobId("id"), [None] * len(RECORD_FIELDS)) is None


def test_a_waiting_job_has_no_more_than_its_beginning():
    read = decode_record(JobId("id"), record())
    assert (read.id, read.status, read.attempts, read.crashes) == ("id", JobStatus.QUEUED, 0, 0)
    assert read.enqueued_at == 1700000000.25
    assert (read.started_at, read.finished_at, read.progress, read.result, read.error) == (None,) * 5
    assert not read.unwanted


def test_the_progress_of_a_job_is_not_known_before_its_first_step():
    assert decode_record(JobId("id"), record(status=b"running", step=b"0", total=b"0")).progress is None


def test_a_cancelled_job_tells_whether_it_was_only_unwanted():
    assert decode_record(JobId("id"), record(status=b"cancelled", unwanted=b"1")).unwanted


def test_all_of_an_ended_job_is_read():
    read = decode_record(
        JobId("id"),
        record(
            status=b"succeeded",
            attempts=b"2",
            crashes=b"1",
            started_at=b"1700000001",
            finished_at=b"1700000002.5",
            step=b"0",
            total=b"20",
            result=encode_result(a_result()),
            error=encode_error(an_error()),
        ),
    )
    assert (read.attempts, read.crashes, read.started_at, read.finished_at) == (
        2,
        1,
        1700000001,
        1700000002.5,
    )
    assert (read.progress, read.result, read.error) == ((0, 20), a_result(), an_error())


@pytest.mark.parametrize(
    "values",
    [
        {"status": b"asleep"},
        {"attempts": None},
        {"enqueued_at": b"soon"},
        {"result": b"{}"},
        {"error": b"[]"},
    ],
)
def test_a_record_of_other_scripts_is_refused(values):
    with pytest.raises(CodecError):
        decode_record(JobId("id"), record(**values))
