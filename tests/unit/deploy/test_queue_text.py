import json
import re

import pytest

from deploy.queue_text import (
    BaseLine,
    bases_json,
    bases_table,
    dead_json,
    dead_table,
    duration,
    job_json,
    job_page,
    printable,
    why_not,
)
from shared.jobs import JobStatus
from shared.queue.terms import KnownJob, Mode, Overview
from tests.builders import BASE, COMMIT, a_job, a_record, a_result, an_adapter, an_error, some_params

NOW = 1_700_000_100.0


def an_overview(**changes):
    idle = {"mode": Mode.OPEN, "waiting": 0, "delayed": 0, "running": 0, "given_up": 0}
    return Overview(**{**idle, "oldest_wait": 0.0, "work": 0.0, "now": NOW, **changes})


def a_dead_record(**changes):
    ended = {"status": JobStatus.FAILED, "attempts": 3, "crashes": 1, "finished_at": NOW - 80}
    return a_record(**{**ended, "error": an_error(), **changes})


def known(record=None, **changes):
    defaults = {"record": record or a_record(), "job": a_job(), "given_up": False, "now": NOW}
    return KnownJob(**{**defaults, **changes})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (7500, "2 h 5 min"),
        (86399.9, "1 d"),
        (90000, "1 d 1 h"),
    ],
)
def test_a_time_span_has_at_most_two_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("text", ["a red circle", "évil ✓ 漢字"])
def test_what_a_person_can_read_is_left_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize("hostile", ["\x1b[31m", "\r", "\n", "\u202e", "\x9b", "\ud800"])
def test_what_would_steer_a_terminal_is_spelt_out(hostile):
    assert hostile not in printable(f"a{hostile}b")
    assert printable(hostile).startswith("\\")


def test_the_table_of_bases_says_how_each_stands():
    busy = an_overview(
        mode=Mode.PAUSED, waiting=14, delayed=1, running=2, given_up=3, oldest_wait=200, work=42.3
    )
    lines = [BaseLine(base=BASE, workers=2, queue=busy), BaseLine(base="a/b", workers=0, queue=an_overview())]
    assert [line.split() for line in bases_table(lines, None).splitlines()[1:]] == [
        [BASE, "paused", "2", "14", "1", "2", "3", "3", "min", "20", "s", "42", "s"],
        ["a/b", "open", "0", "0", "0", "0", "0", "-", "-"],
    ]


def test_it_fits_eighty_columns_whatever_the_bases_are_called():
    line = BaseLine(base=f"{'o' * 40}/{'n' * 30}", workers=100, queue=an_overview(waiting=1000))
    assert max(map(len, bases_table([line], 80).splitlines())) <= 80


def test_the_table_of_dead_jobs_says_when_and_why():
    record = a_dead_record()
    (_, row) = dead_table([record], NOW, None).splitlines()
    assert re.split(r"\s{2,}", row) == [
        record.id,
        "1 min 20 s ago",
        "3",
        "1",
        "worker_fault",
        "the worker ran out of memory",
    ]


def test_an_error_cannot_break_out_of_its_row():
    table = dead_table([a_dead_record(error=an_error(message="a\n\x1b[2Jb"))], NOW, None)
    assert len(table.splitlines()) == 2
    assert "\x1b" not in table


def test_a_record_of_another_version_has_no_time():
    assert dead_table([a_dead_record(finished_at=None)], NOW, None).splitlines()[1].split()[1] == "-"
    assert "1970" not in job_page(known(a_record(enqueued_at=0.0, status=JobStatus.FAILED), job=None), None)


def test_the_page_of_a_waiting_job_says_what_was_asked_for():
    job = a_job(
        adapters=(an_adapter(scale=0.8), an_adapter(repo="other/neon", weight_name="neon.safetensors")),
        params=some_params(
            negative_prompt="blur", steps=20, width=512, guidance_scale=5.0, scheduler="Euler"
        ),
    )
    record = a_record(id=job.id)
    assert job_page(known(record, job=job), None).splitlines() == [
        f"Job         {record.id}",
        "Status      queued",
        "Enqueued    2023-11-14 22:13:20 UTC, 1 min 40 s ago",
        "Attempts    0",
        "Crashes     0",
        f"Base        {BASE}",
        "Adapters    someone/crayon, strength 0.8",
        f"              commit {COMMIT}",
        "              file   pytorch_lora_weights.safetensors",
        "            other/neon, strength 1",
        f"              commit {COMMIT}",
        "              file   neon.safetensors",
        "Prompt      a red circle",
        "Negative    blur",
        "Parameters  seed 7, 20 steps, 512 x any, guidance 5, Euler, png",
        "Priority    normal",
        "Timeout     1 min",
    ]


def test_that_of_a_running_one_how_far_it_is():
    record = a_record(status=JobStatus.RUNNING, started_at=1_700_000_012.0, progress=(3, 20))
    page = job_page(known(record), None)
    assert "Started     2023-11-14 22:13:32 UTC, 1 min 28 s ago, after 12 s of waiting" in page
    assert "Progress    3 of 20 steps" in page


def test_that_of_one_that_succeeded_what_was_drawn():
    page = job_page(known(a_record(status=JobStatus.SUCCEEDED, result=a_result()), job=None), None)
    assert "someone/crayon, strength 1" in page
    assert "seed 7, 20 steps, 64 x 64, guidance 5, EulerDiscreteScheduler" in page
    assert "image/png, 1,234 bytes" in page


def test_that_of_one_that_was_given_up_why():
    page = job_page(known(a_dead_record(error=an_error(field="loras")), given_up=True), None)
    assert "Status      failed, given up" in page
    assert "Error       worker_fault (loras): the worker ran out of memory" in page


def test_that_of_one_that_was_cancelled_as_unwanted_that_nobody_did_it():
    page = job_page(known(a_record(status=JobStatus.CANCELLED, unwanted=True), job=None), None)
    assert "Status    cancelled, as nobody waited for it" in page


def test_that_of_one_that_ended_otherwise_that_its_request_is_gone():
    assert "not kept after its end" in job_page(known(a_record(status=JobStatus.CANCELLED), job=None), None)


def test_the_bare_base_has_no_adapters():
    assert "none: the bare base" in job_page(known(job=a_job(adapters=())), None)


def test_a_long_prompt_is_wrapped_under_itself():
    page = job_page(known(job=a_job(params=some_params(prompt="many words " * 20))), 64)
    assert max(map(len, page.splitlines())) <= 64
    assert "\n            many words" in page


def test_a_sealed_token_is_never_shown():
    told = known(job=a_job(sealed_token="SEALED"))
    assert "SEALED" not in job_page(told, None)
    assert "SEALED" not in job_json(told)
    assert "token" not in job_json(told)


def test_machines_get_plain_data():
    line = BaseLine(base=BASE, workers=2, queue=an_overview(mode=Mode.DRAINING))
    (base,) = json.loads(bases_json([line]))
    assert (base["base"], base["workers"], base["mode"], base["waiting"]) == (BASE, 2, "draining", 0)
    record = a_dead_record()
    (dead,) = json.loads(dead_json([record]))
    assert (dead["id"], dead["given_up_at"], dead["error"]["code"]) == (record.id, NOW - 80, "worker_fault")
    job = json.loads(job_json(known(record, given_up=True)))
    assert (job["status"], job["given_up"], job["job"]["params"]["seed"]) == ("failed", True, 7)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "no such job"),
        (a_record(status=JobStatus.FAILED), "failed for good"),
        (a_record(status=JobStatus.RUNNING), "its status is running"),
    ],
)
def test_why_a_job_is_not_to_be_run_again(record, reason):
    assert reason in why_not(record)
