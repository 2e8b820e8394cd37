import pytest

from shared.errors import InvalidRequest
from shared.jobs import NEXT_STATUS, ImageFormat, JobStatus, job_base_tag, new_job_id, parse_job_id
from shared.refs import base_tag
from tests.builders import BASE, a_job, a_record, some_params


def test_every_status_says_what_may_follow():
    assert set(NEXT_STATUS) == set(JobStatus)


@pytest.mark.parametrize(
    ("status", "is_end"),
    [
        (JobStatus.QUEUED, False),
        (JobStatus.RUNNING, False),
        (JobStatus.SUCCEEDED, True),
        (JobStatus.FAILED, True),
        (JobStatus.CANCELLED, True),
    ],
)
def test_the_last_three_are_ends(status, is_end):
    assert status.is_end is is_end


def test_an_id_leads_to_the_queue_of_its_base():
    assert job_base_tag(new_job_id(BASE)) == base_tag(BASE)


def test_ids_are_not_given_twice():
    assert len({new_job_id(BASE) for _ in range(1000)}) == 1000


def test_an_id_that_was_given_out_is_taken():
    job_id = new_job_id(BASE)
    assert parse_job_id(job_id) == job_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "x" * 49,
        "0" * 16 + "-" + "0" * 31,
        "0" * 16 + "-" + "0" * 33,
        "0" * 15 + "-" + "0" * 33,
        "0" * 16 + "-" + "A" * 32,
        "0" * 16 + "-" + "0" * 31 + "}",
        "0" * 16 + ":" + "0" * 32,
        "0" * 16 + "-" + "\N{ARABIC-INDIC DIGIT ZERO}" * 32,
    ],
)
def test_what_is_no_id_is_refused(text):
    with pytest.raises(InvalidRequest, match="not a job id"):
        parse_job_id(text)


def test_the_wait_is_from_enqueue_to_the_last_claim():
    assert a_record(enqueued_at=100.0, started_at=103.5).queue_wait == 3.5


def test_a_job_that_was_never_claimed_has_no_wait_yet():
    assert a_record(enqueued_at=100.0).queue_wait == 0.0


def test_a_clock_that_was_set_back_makes_no_negative_wait():
    assert a_record(enqueued_at=100.0, started_at=99.0).queue_wait == 0.0


@pytest.mark.parametrize(("strength", "work"), [(None, 80_000), (0.5, 40_000), (0.0, 0)])
def test_of_a_picture_only_the_part_that_its_strength_says_is_work(strength, work):
    params = some_params(steps=20, width=100, height=40, strength=strength)
    assert a_job(params=params).work == work


def test_a_format_names_its_media_type():
    assert [ImageFormat(name).media_type for name in ("png", "jpeg", "webp")] == [
        "image/png",
        "image/jpeg",
        "image/webp",
    ]
